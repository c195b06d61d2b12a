"""Kill, stop or fail processes at random while streams run."""
