//! Another size, rate or bit rate of a clip, made by the `ffmpeg` command before the camera starts.
//!
//! Liuta links no encoder; whoever asks for this has ffmpeg, or is told so.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};

/// What the clips are made into; nothing: they are served as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Width and height in pixels.
    pub size: Option<(u32, u32)>,
    /// Pictures a second.
    pub fps: Option<u32>,
    /// As ffmpeg takes it: `800k`, `4M`, or bits a second.
    pub bitrate: Option<String>,
}

impl Options {
    pub fn is_none(&self) -> bool {
        *self == Options::default()
    }

    /// Writes `from`, changed, to `to`.
    pub async fn apply(&self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(from).args(["-c:v", "libx264", "-preset"]);
        command.args(["veryfast", "-pix_fmt", "yuv420p", "-bf", "0"]);
        if let Some((width, height)) = self.size {
            command.arg("-vf").arg(format!("scale={width}:{height}"));
        }
        // A key picture every two seconds, as cameras send them.
        let fps = self.fps.unwrap_or(25);
        command.arg("-r").arg(fps.to_string()).arg("-g").arg((2 * fps).to_string());
        if let Some(bitrate) = &self.bitrate {
            command.arg("-b:v").arg(bitrate);
        }
        command.args(["-c:a", "aac", "-f", "mp4"]).arg(to);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = match output {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!(
                    "--size, --fps and --bitrate need the ffmpeg command: install it (apt-get install ffmpeg)"
                )
            }
            Err(error) => return Err(error).context("starting ffmpeg"),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: ffmpeg could not change it: {}", from.display(), said.trim());
        }
        Ok(())
    }
}

/// A folder of our own that goes with the process that made it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> anyhow::Result<Scratch> {
        let name = format!("liuta-simulate-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        Ok(Scratch(folder))
    }

    pub fn file(&self, number: usize) -> PathBuf {
        self.0.join(format!("{number}.mp4"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!("{}: {error}", self.0.display());
        }
    }
}
