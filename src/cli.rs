//! The command line: arguments as parsed, and the commands that are not the daemon.
