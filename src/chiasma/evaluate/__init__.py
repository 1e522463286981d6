"""From a design to a typed outcome: the ladder, the executor and its workers."""
