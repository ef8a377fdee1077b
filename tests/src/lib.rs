//! What the scenarios share: starting and stopping the daemon, and what a test may require of the machine.
