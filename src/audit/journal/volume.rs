//! Whether a directory outlives the process, as far as the system tells.
//!
//! What lives in memory, in a container's own layer or in a pod's scratch space is gone with it, and a change whose
//! record is gone might as well not have been recorded. Source: `proc_pid_mountinfo(5)`.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

/// `[audit] volume`
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Volume {
    /// Look at what the directory stands on, and change nothing where that ends with the process.
    #[default]
    Detect,
    /// The operator vouches for it.
    Persistent,
}

/// File systems that end with the machine, the container or the pod.
const PASSING: [&str; 5] = ["tmpfs", "ramfs", "devtmpfs", "overlay", "aufs"];

/// Why what is written to `directory` would not outlive the process; nothing if it would.
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
    if in_function && !mount.kind.starts_with("nfs") {
        return Some(format!("{shown} is a function's own scratch space; {remedy}"));
    }
    None
}

/// One line of the table.
struct Mount {
    /// What of the file system is mounted.
    root: String,
    point: String,
    kind: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        Some(Self { root, point, kind: source.split(' ').next()?.to_owned() })
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
24 22 0:40 / /var/lib/journal rw - nfs4 fs-1.efs.eu-central-1.amazonaws.com:/ rw
25 22 259:1 /var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/scratch /scratch rw - ext4 /dev/nvme rw
26 22 0:50 / /layer rw - overlay overlay rw
27 26 8:1 / /layer/data\\040disk rw - xfs /dev/sdb rw
";

    #[test]
    fn what_ends_with_the_process_is_no_place_for_a_journal() {
        for (directory, in_function, kept) in [
            ("/srv/journal", false, true),
            ("/tmp/journal", false, false),
            ("/var/lib/journal/a", false, true),
            ("/var/lib/journal/a", true, true),
            ("/srv/journal", true, false),
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
