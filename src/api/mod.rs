//! HTTP: REST, live pages, the console.
