//! Between the worker's results and the store: each look goes through its camera's watches, and what they say is stored.
