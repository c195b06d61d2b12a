"""Long runs, and scarce or faulty resources: disks, files, clocks."""
