//! The difference of two configurations: which cameras, destinations and servers a reload touches.
