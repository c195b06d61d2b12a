"""This process as a service of systemd: nothing here is needed where it is none."""
