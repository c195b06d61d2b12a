"""Which target serves which stream, and what happens to streams without one."""
