//! The worker's own sandbox: what a camera's picture could do that takes this process over, it may not do.
//!
//! Entered before the first byte of a camera, a model or a plug-in is read, and never left. Three layers, each as far
//! as the kernel has it: Landlock leaves the files that decoding and inference need, seccomp takes away the system
//! calls that reach out of the process, limits keep a crash from writing pictures to disk.
//!
//! seccomp **denies a list** and allows the rest. The drivers of graphics cards make calls that no list of ours would
//! foresee, and a call that is refused there is a box that no longer watches; the unit's own allow-list
//! (`packaging/systemd/liuta.service`) lies around it. What is denied fails with `EPERM`, so that a library which
//! merely tries falls back.
//!
//! What does not belong here: what the daemon may do (the unit), and which libraries are looked for (`session`).

mod check;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};
use liuta::vision::model;
use liuta::vision::wire::Sandbox;
use rustix::process::{Resource, Rlimit};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

pub use check::check;

/// Landlock's rights that are handled; an older kernel handles those that it knows.
const HANDLED: ABI = ABI::V6;

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | ReadDir | IoctlDev});
const CACHE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | WriteFile | ReadDir | RemoveFile | RemoveDir | MakeReg | MakeDir | Truncate | Refer
});

/// Libraries, plug-ins, and what drivers ask of the system. Of `/etc` only what the loader and drivers read: passwords
/// of cameras lie there too.
const READABLE: [&str; 27] = [
    "/usr",
    "/lib",
    "/lib64",
    "/opt",
    "/sys",
    "/etc/alternatives",
    "/etc/drirc",
    "/etc/fonts",
    "/etc/glvnd",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/libva.conf",
    "/etc/localtime",
    "/etc/nv_tegra_release",
    "/etc/nvidia",
    "/etc/OpenCL",
    "/etc/vulkan",
    "/proc/cpuinfo",
    "/proc/devices",
    "/proc/device-tree",
    "/proc/driver",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/self",
    "/proc/stat",
    "/proc/version",
];

/// Devices that hold no secret.
const PLAIN_DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What the device nodes of decoders and accelerators begin with: DRM, NVIDIA cards and Jetson, V4L2, Rockchip, Intel
/// NPU.
const DECODERS: [&str; 14] = [
    "accel",
    "dma_heap",
    "dri",
    "hevc_service",
    "iep",
    "media",
    "mpp_service",
    "nvgpu",
    "nvhost",
    "nvidia",
    "nvmap",
    "rga",
    "video",
    "vpu_service",
];

/// Environment variables with folders that libraries and plug-ins are loaded from.
const FOLDERS: [&str; 5] =
    ["LD_LIBRARY_PATH", "GST_PLUGIN_PATH", "GST_PLUGIN_SYSTEM_PATH", "LIBVA_DRIVERS_PATH", "CUDA_HOME"];

/// More than all pipelines of the largest box have open.
const OPEN_FILES: u64 = 1024;

/// Of the kernel's score: the worker goes before the daemon when memory is short.
const OOM_SCORE: &str = "500";

/// Enters the sandbox; what the kernel does not have is told in one warning. `libraries`: folders that ONNX Runtime is
/// looked for in; `models`: manifests, whose folders and files are read.
pub fn enter(libraries: &[PathBuf], models: &[PathBuf]) -> Sandbox {
    limit();
    let mut missing = Vec::new();
    let landlock = restrict_files(libraries, models).unwrap_or_else(|why| {
        missing.push(format!("Landlock ({why})"));
        0
    });
    let seccomp = match restrict_calls() {
        Ok(()) => true,
        Err(why) => {
            missing.push(format!("seccomp ({why})"));
            false
        }
    };
    if !missing.is_empty() {
        let missing = missing.join(" and ");
        tracing::warn!("the worker runs without a part of its sandbox: {missing}; see docs/security.md");
    }
    Sandbox { landlock, seccomp }
}

/// No core files, which would hold pictures; few open files; files for this user only; first to go.
fn limit() {
    let lower = |resource, to| {
        let maximum = rustix::process::getrlimit(resource).maximum.unwrap_or(to).min(to);
        rustix::process::setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) })
    };
    for (resource, to) in [(Resource::Core, 0), (Resource::Nofile, OPEN_FILES)] {
        if let Err(error) = lower(resource, to) {
            tracing::debug!("{resource:?}: {error}");
        }
    }
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // Raising needs no privilege; a container may hide the file.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::debug!("oom_score_adj: {error}");
    }
}

/// The ABI of Landlock that is in force.
fn restrict_files(libraries: &[PathBuf], models: &[PathBuf]) -> Result<u32, String> {
    let failed = |error: landlock::RulesetError| error.to_string();
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(HANDLED))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(HANDLED)))
        .and_then(|rules| rules.scope(Scope::from_all(HANDLED)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(readable(libraries, models), READ)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(devices(), DEVICE)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(caches(), CACHE)))
        .and_then(|rules| rules.restrict_self())
        .map_err(failed)?;
    match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi }
            if status.ruleset != RulesetStatus::NotEnforced =>
        {
            Ok(kernel_abi.unwrap_or(effective_abi as i32).unsigned_abs())
        }
        LandlockStatus::NotEnabled => Err("the kernel has it switched off: add landlock to lsm=".to_owned()),
        _ => Err("the kernel has none: Linux 5.13 or newer does".to_owned()),
    }
}

fn readable(libraries: &[PathBuf], models: &[PathBuf]) -> Vec<PathBuf> {
    let mut readable: Vec<PathBuf> = READABLE.iter().map(PathBuf::from).collect();
    readable.extend(libraries.iter().cloned());
    for manifest in models {
        readable.extend(manifest.parent().map(Path::to_owned));
        // It may be a link that leads out of the folder; one that cannot be read is told when it is loaded.
        readable.extend(model::read(manifest).ok().map(|read| model::file_of(&read, manifest)));
    }
    for variable in FOLDERS {
        let folders = std::env::var_os(variable).unwrap_or_default();
        readable.extend(std::env::split_paths(&folders).filter(|folder| folder.is_absolute()));
    }
    readable
}

fn devices() -> Vec<PathBuf> {
    let decodes = |name: OsString| DECODERS.iter().any(|begin| name.to_string_lossy().starts_with(begin));
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let decoders = entries.filter(|entry| decodes(entry.file_name())).map(|entry| entry.path());
    PLAIN_DEVICES.iter().map(PathBuf::from).chain(decoders).collect()
}

/// Folders of the caches that GStreamer and CUDA keep. They are made here, since a rule needs its folder. Whoever
/// writes something evil there reaches the next worker, which is inside this sandbox before it reads them.
fn caches() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = set("HOME");
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
    let cuda = set("CUDA_CACHE_PATH").or_else(|| Some(home.as_ref()?.join(".nv/ComputeCache")));
    let caches: Vec<PathBuf> =
        [cache.map(|cache| cache.join("gstreamer-1.0")), cuda].into_iter().flatten().collect();
    for cache in &caches {
        if let Err(error) = std::fs::create_dir_all(cache) {
            tracing::debug!("{}: {error}", cache.display());
        }
    }
    caches
}

fn restrict_calls() -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let denied =
        program(denied().map_err(|error| told(&error))?, libc::EPERM).map_err(|error| told(&error))?;
    // Its flags lie in memory, where no filter sees them. The C library takes `clone` where this is missing.
    let clone3 = program(vec![(libc::SYS_clone3, vec![])], libc::ENOSYS).map_err(|error| told(&error))?;
    for filter in [clone3, denied] {
        seccompiler::apply_filter_all_threads(&filter).map_err(|error| told(&error))?;
    }
    Ok(())
}

type Rules = Vec<(i64, Vec<SeccompRule>)>;

fn program(rules: Rules, errno: i32) -> Result<BpfProgram, BackendError> {
    let action = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Allow,
        action,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

/// Calls that are refused whatever they are given.
const DENIED: &[i64] = &[
    // Reaching out: sockets of every family. The one to the daemon is open already.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // Becoming another program.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes and their memory.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    // Namespaces and file systems.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // What Landlock does not hold: modes, owners, attributes and times of the daemon's files, which are the same user's.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_utimensat,
    // Large parts of the kernel that decoding needs nothing of.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_personality,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_vhangup,
    // The box itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// The same under names that only this architecture has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

fn denied() -> Result<Rules, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let mut rules: Rules = DENIED.iter().chain(DENIED_HERE).map(|&call| (call, vec![])).collect();
    let own = u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
    let int =
        |argument, operator, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    let when = SeccompRule::new;
    // Threads only. One with namespaces of its own needs a capability, or is refused by the kernel.
    rules.push((libc::SYS_clone, vec![when(vec![int(0, MaskedEq(libc::CLONE_THREAD as u64), 0)?])?]));
    // Signals to itself only; the daemon runs as the same user.
    for call in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
        rules.push((call, vec![when(vec![int(0, Ne, own)?])?]));
    }
    rules.push((libc::SYS_prlimit64, vec![when(vec![int(0, Ne, 0)?, int(0, Ne, own)?])?]));
    // A datagram to an address.
    let address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, Ne, 0)?;
    rules.push((libc::SYS_sendto, vec![when(vec![address])?]));
    // Keys typed into somebody's terminal.
    let terminal = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| when(vec![int(1, Eq, request)?]));
    rules.push((libc::SYS_ioctl, terminal.into_iter().collect::<Result<_, _>>()?));
    Ok(rules)
}
