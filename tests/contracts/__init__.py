"""Contracts that every component keeps; a third party's test inherits a class and names its own specs."""
