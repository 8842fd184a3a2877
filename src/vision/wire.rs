//! What the main process and the worker say to each other.
