//! One RTSP session (retina): from a URL to samples on the box's timeline, with every await under a timeout.
