//! Parses the output of Slurm's programs. Pure.

use crate::config::HostName;

/// An allocation, named after its instance or its purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its job number.
    pub job: u64,
    pub name: String,
    /// Its host.
    pub host: HostName,
    /// Its age in seconds.
    pub age: u64,
}

impl Lease {
    /// The output format for `squeue`.
    pub const FORMAT: &str = "%A|%j|%N|%M";
}

/// A host, as Slurm sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub host: HostName,
    /// The address of its daemon.
    pub address: String,
    pub port: u16,
    /// Its state in Slurm's words.
    pub state: String,
    /// It answered Slurm recently.
    pub responds: bool,
    pub cpus: u32,
    pub cpus_free: u32,
    pub memory_mb: u64,
    pub memory_free_mb: u64,
    /// Its features in slurm.conf.
    pub features: Vec<String>,
    /// The reason that somebody gave for this state.
    pub reason: Option<String>,
}

impl Node {
    /// The output format for `sinfo`: words, with the reason last because it may contain blanks.
    pub const FORMAT: &str = "NodeList:70,NodeAddr:260,Port:8,StateLong:40,CPUsState:50,Memory:20,AllocMem:20,Features:300,Reason:300";

    /// Whether Slurm places jobs on it.
    pub fn takes(&self) -> bool {
        let taken = ["idle", "mixed", "allocated", "completing", "planned"];
        self.responds && taken.contains(&self.state.as_str())
    }

    /// Its CPU model, which setup.sh --join adds to the features. Memory saved on a host can be
    /// restored on any host with the same CPU model.
    pub fn processors(&self) -> Option<&str> {
        let kind = self.features.iter().find(|it| it.starts_with("cpu-"));
        kind.map(String::as_str)
    }

    /// Whether somebody has drained it.
    pub fn drains(&self) -> bool {
        self.state.starts_with("drain")
    }
}

/// The leases in the output of `squeue`. Other allocations are left out.
pub fn leases(text: &str) -> Vec<Lease> {
    let lease = |line: &str| {
        let mut fields = line.trim().split('|');
        Some(Lease {
            job: fields.next()?.parse().ok()?,
            name: fields.next()?.to_owned(),
            host: fields.next()?.parse().ok()?,
            age: seconds(fields.next()?)?,
        })
    };
    text.lines().filter_map(lease).collect()
}

/// A duration in Slurm's format: `[days-[hours:]]minutes:seconds`.
fn seconds(text: &str) -> Option<u64> {
    let (days, rest) = text.split_once('-').unwrap_or(("0", text));
    let mut parts = rest.split(':').map(|part| part.parse::<u64>().ok());
    let rest = parts.try_fold(0_u64, |sum, part| sum.checked_mul(60)?.checked_add(part?))?;
    days.parse::<u64>()
        .ok()?
        .checked_mul(86_400)?
        .checked_add(rest)
}

/// The number of steps in the output of `squeue --steps` that run a program. The step of the
/// allocation itself does not count.
pub fn steps(text: &str) -> usize {
    let step = |line: &&str| {
        let number = line.trim().rsplit('.').next();
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    text.lines().filter(step).count()
}

/// The hosts in the output of `sinfo`, each once.
pub fn nodes(text: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for node in text.lines().filter_map(node) {
        if nodes.iter().all(|other| other.host != node.host) {
            nodes.push(node);
        }
    }
    nodes
}

fn node(line: &str) -> Option<Node> {
    let mut words = line.split_whitespace();
    let host = words.next()?.parse().ok()?;
    let address = words.next()?.to_owned();
    let port = words.next()?.parse().ok()?;
    let state = words.next()?;
    // Allocated, idle, other and all.
    let mut cpus = words.next()?.split('/').map(str::parse::<u32>);
    let (_, idle) = (cpus.next()?, cpus.next()?.ok()?);
    let (_, all) = (cpus.next()?, cpus.next()?.ok()?);
    let memory_mb: u64 = words.next()?.parse().ok()?;
    let taken: u64 = words.next()?.parse().ok()?;
    let features = words.next()?.split(',').filter(|it| *it != "(null)");
    let features = features.map(str::to_owned).collect();
    let reason = words.collect::<Vec<_>>().join(" ");
    let plain = state.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
    let dead = ["down", "unknown", "fail", "powered_down", "powering_down"];
    Some(Node {
        host,
        address,
        port,
        state: plain.to_owned(),
        responds: !state.contains('*') && !dead.contains(&plain),
        cpus: all,
        cpus_free: idle,
        memory_mb,
        memory_free_mb: memory_mb.saturating_sub(taken),
        features,
        reason: (!reason.is_empty() && reason != "none").then_some(reason),
    })
}

/// The job number in the output of `salloc`.
pub fn granted(said: &str) -> Option<u64> {
    said.lines().find_map(|line| {
        let number = line.split_once("Granted job allocation ")?.1;
        number.split_whitespace().next()?.parse().ok()
    })
}

/// The host that `salloc` reports as ready, which some versions do not.
pub fn ready(said: &str) -> Option<HostName> {
    said.lines().find_map(|line| {
        let host = line.split_once(": Nodes ")?.1.split_once(" are ready")?.0;
        host.parse().ok()
    })
}

/// The reason, if `salloc` failed because no host has room.
pub fn refusal(said: &str) -> Option<String> {
    let full = [
        "Requested nodes are busy",
        "Immediate execution impossible",
        "Requested node configuration is not available",
        "Required node not available",
        "Job dependency can't be satisfied",
        "Job allocation time limit", // of waiting for it
        "has been revoked",
    ];
    let is_full = |line: &&str| full.iter().any(|words| line.contains(words));
    said.lines().find(is_full).map(words)
}

/// The reason, if `salloc` failed because of a limit that is set in Slurm: what a script of its controller
/// says, or else Slurm's own words.
pub fn limit(said: &str) -> Option<String> {
    let is_limit = |line: &&str| line.contains("violates accounting/QOS policy");
    let own = said.lines().find(is_limit)?;
    let of_script = said
        .lines()
        .find(|line| *line != own && line.contains(": error: "));
    Some(words(of_script.unwrap_or(own)))
}

/// The message of a Slurm program, shortened and without its name at the start of each line.
pub fn words(said: &str) -> String {
    let lines = said.lines().map(|line| {
        let line = line.trim();
        let bare = line
            .split_once(": ")
            .filter(|(name, _)| !name.contains(' '));
        let line = bare.map_or(line, |(_, rest)| rest);
        line.trim_start_matches("error: ")
    });
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_read_as_slurm_prints_them() {
        let text = "41|lab01_user_7|h1|3:05\n42|other|h[1-2]|1:00\n43|lab01_user_a.b|h2|2-01:00:07\n44|x||0:00\n";
        let leases = leases(text);
        let seen: Vec<_> = leases.iter().map(|it| (it.job, it.age)).collect();
        assert_eq!(seen, [(41, 185), (43, 2 * 86_400 + 3607)]);
        assert_eq!(leases[0].host.as_str(), "h1");
        assert_eq!(leases[1].name, "lab01_user_a.b");
    }

    #[test]
    fn hosts_are_read_as_slurm_prints_them() {
        let text = "h1   10.0.0.1  6818  mixed     3/97/0/100  65536  1152  cpu-a,x  none\n\
                    h1   10.0.0.1  6818  mixed     3/97/0/100  65536  1152  cpu-a,x  none\n\
                    h2   h2        6818  down*     0/0/100/100 65536  0     (null)  Not responding\n\
                    h3   h3        6818  drained   0/0/100/100 65536  0     cpu-a  cyyber: drain\n\
                    h4   h4        6818  idle      0/100/0/100 65536  0     cpu-b  none\n\
                    bad line\n";
        let nodes = nodes(text);
        let seen: Vec<_> = nodes
            .iter()
            .map(|it| (it.host.as_str(), it.takes(), it.responds, it.drains()))
            .collect();
        let wanted = [
            ("h1", true, true, false),
            ("h2", false, false, false),
            ("h3", false, true, true),
            ("h4", true, true, false),
        ];
        assert_eq!(seen, wanted);
        assert_eq!((nodes[0].memory_free_mb, nodes[0].cpus_free), (64_384, 97));
        assert_eq!(nodes[0].reason, None);
        assert_eq!(
            (nodes[0].processors(), nodes[1].processors()),
            (Some("cpu-a"), None)
        );
        assert_eq!(nodes[2].reason.as_deref(), Some("cyyber: drain"));
    }

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        let busy = "salloc: error: Unable to allocate resources: Requested nodes are busy\n";
        let why = refusal(busy).unwrap();
        assert_eq!(
            why,
            "Unable to allocate resources: Requested nodes are busy"
        );
        let dead = "salloc: error: Unable to allocate resources: Unable to contact slurm controller (connect failure)\n";
        assert_eq!(refusal(dead), None);
        let own = "salloc: error: Job submit/allocate failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n";
        let of_script = format!("salloc: error: anna has 2 instances running\n{own}");
        assert_eq!(limit(&of_script).unwrap(), "anna has 2 instances running");
        assert!(limit(own).unwrap().contains("violates"));
        assert_eq!((limit(busy), refusal(&of_script)), (None, None));
        let granted_text = "salloc: Pending job allocation 7\nsalloc: Granted job allocation 7\nsalloc: Waiting for resource configuration\n";
        assert_eq!(granted(granted_text), Some(7));
        assert_eq!(ready(granted_text), None);
        let ready_text = format!("{granted_text}salloc: Nodes h1 are ready for job\n");
        assert_eq!(ready(&ready_text), Some("h1".parse().unwrap()));
        assert_eq!(granted(busy), None);
    }

    #[test]
    fn the_step_of_the_allocation_itself_is_none() {
        assert_eq!(steps("12.extern\n12.0\n12.1\n"), 2);
        assert_eq!(steps(""), 0);
    }
}
