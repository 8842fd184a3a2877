//! The RTSP server (RFC 2326), TCP interleaved.
