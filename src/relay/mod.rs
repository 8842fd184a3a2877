//! Showing cameras to others: RTSP and HLS, from the live rings, each reader at its own pace; HLS of what is recorded;
//! and what is on air.

pub mod channels;
pub mod hls;
pub mod rtsp;
pub mod viewers;
pub mod vod;
