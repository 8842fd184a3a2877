//! HLS at `/<camera>/index.m3u8`, from the live ring.
