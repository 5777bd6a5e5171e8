"""The sharded train step and the loop around it."""
