//! One camera's whole way: connect, receive, and hand each picture to the live ring, the recorder and the looks.

pub mod source;
