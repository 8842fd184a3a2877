//! Showing cameras to others: RTSP and HLS, from the live rings, each reader at its own pace.

pub mod hls;
pub mod rtsp;
