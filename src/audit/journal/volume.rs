//! Whether a directory outlives the process, as far as the system tells.
//!
//! What lives in memory, in a container's own layer or in a pod's scratch space is gone with it, and a change whose
//! record is gone might as well not have been recorded. And whether locks in it hold: a lock says that a chain's process
//! lives. Sources: `proc_pid_mountinfo(5)`, `nfs(5)`.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

/// `[audit] volume`
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Volume {
    /// Look at what the directory stands on, and change nothing where that ends with the process or does not lock.
    #[default]
    Detect,
    /// The operator vouches for it.
    Persistent,
}

/// File systems that end with the machine, the container or the pod.
const PASSING: [&str; 5] = ["tmpfs", "ramfs", "devtmpfs", "overlay", "aufs"];

/// Why `directory` is no place for a journal; nothing if it is one.
pub(super) fn objection(volume: Volume, directory: &Path) -> Option<String> {
    if volume == Volume::Persistent {
        return None;
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let directory = directory.canonicalize().ok()?;
    // A function's own scratch space looks like a disk and is kept as long as the function is warm.
    let in_function = std::env::var_os("AWS_LAMBDA_FUNCTION_NAME").is_some();
    judge(&table, &directory, in_function)
}

fn judge(table: &str, directory: &Path, in_function: bool) -> Option<String> {
    let mounts = table.lines().filter_map(Mount::parse);
    // Of mounts on the same point the last one is seen.
    let mount = mounts.filter(|mount| directory.starts_with(&mount.point)).max_by_key(|mount| mount.point.len())?;
    let shown = directory.display();
    let remedy = "give it a volume that is kept, or say `[audit] volume = \"persistent\"` if it is";
    if PASSING.contains(&mount.kind.as_str()) {
        return Some(format!("{shown} is on {}, which ends with this process or its container; {remedy}", mount.kind));
    }
    if mount.root.contains("kubernetes.io~empty-dir") {
        return Some(format!("{shown} is an emptyDir, which ends with the pod; {remedy}"));
    }
    let is_nfs = mount.kind.starts_with("nfs");
    if in_function && !is_nfs {
        return Some(format!("{shown} is a function's own scratch space; {remedy}"));
    }
    if is_nfs && mount.locks_are_its_own {
        return Some(format!(
            "{shown} is on NFS that is mounted without locks (nolock, local_lock): two machines could write one journal; \
             mount it with locks, or say `[audit] volume = \"persistent\"` if this one is the only one"
        ));
    }
    None
}

/// One line of the table.
struct Mount {
    /// What of the file system is mounted.
    root: String,
    point: String,
    kind: String,
    /// Whether its locks hold on this machine alone (`nfs(5)`).
    locks_are_its_own: bool,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        let mut source = source.split(' ');
        let kind = source.next()?.to_owned();
        let mut options = source.nth(1).unwrap_or_default().split(',');
        let locks_are_its_own =
            options.any(|option| ["nolock", "local_lock=all", "local_lock=flock"].contains(&option));
        Some(Self { root, point, kind, locks_are_its_own })
    }
}

/// Blanks and backslashes are written in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /tmp rw - tmpfs tmpfs rw
24 22 0:40 / /var/lib/journal rw - nfs4 fs-1.efs.eu-central-1.amazonaws.com:/ rw,vers=4.1,local_lock=none
25 22 259:1 /var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/scratch /scratch rw - ext4 /dev/nvme rw
28 22 0:41 / /nfs rw - nfs 10.0.0.2:/share rw,vers=3,nolock,proto=tcp,local_lock=all
29 22 0:42 / /flock rw - nfs4 10.0.0.2:/share rw,vers=4.1,local_lock=flock
26 22 0:50 / /layer rw - overlay overlay rw
27 26 8:1 / /layer/data\\040disk rw - xfs /dev/sdb rw
";

    #[test]
    fn what_ends_with_the_process_or_does_not_lock_is_no_place_for_a_journal() {
        for (directory, in_function, kept) in [
            ("/srv/journal", false, true),
            ("/tmp/journal", false, false),
            ("/var/lib/journal/a", false, true),
            ("/var/lib/journal/a", true, true),
            ("/srv/journal", true, false),
            ("/nfs/journal", false, false),
            ("/flock/journal", false, false),
            ("/scratch/journal", false, false),
            ("/layer/journal", false, false),
            ("/layer/data disk/journal", false, true),
        ] {
            let objection = judge(TABLE, Path::new(directory), in_function);
            assert_eq!(objection.is_none(), kept, "{directory}: {objection:?}");
        }
        assert_eq!(objection(Volume::Persistent, Path::new("/dev/shm")), None);
    }
}
