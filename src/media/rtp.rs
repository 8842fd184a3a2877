//! RTP packets of access units and audio frames (RFC 3550, 6184, 7798, 3640, 3551), as headers plus payload slices.
