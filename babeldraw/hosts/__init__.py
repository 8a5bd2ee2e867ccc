"""Several hosts: joining, the roll call, presence."""
