//! H.264 (ITU-T H.264, RFC 6184): NAL unit types and the sequence parameter set.
