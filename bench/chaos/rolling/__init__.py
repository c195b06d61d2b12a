"""Every role stopped and started again in turn, while clients that know how to go on ask."""
