//! The part of a machine that Slurm gave a task, by the variables that it sets. Where Slurm is set up without control
//! groups, the kernel shows a task the whole node.

use std::num::NonZero;

/// What a batch system gave this process. None where it says nothing, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allocation {
    /// Processors.
    pub cpus: Option<usize>,
    /// Memory in bytes.
    pub memory: Option<u64>,
}

impl Allocation {
    /// That of this process.
    pub fn of_process() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        if variable("SLURM_JOB_ID").is_none() {
            return Self::default();
        }
        // Slurm counts memory in MiB, and writes 0 for a job that may take all.
        let number = |name: &str| variable(name)?.trim().parse::<u64>().ok().filter(|number| *number > 0);
        let cpus = number("SLURM_CPUS_PER_TASK").or_else(|| number("SLURM_CPUS_ON_NODE"));
        let each = || Some(number("SLURM_MEM_PER_CPU")?.saturating_mul(cpus.unwrap_or(1)));
        let memory = number("SLURM_MEM_PER_NODE").or_else(each).map(|mib| mib.saturating_mul(1 << 20));
        Self { cpus: cpus.and_then(|cpus| usize::try_from(cpus).ok()), memory }
    }
}

/// Processors that this process may use: those that the kernel lets it run on, or fewer where Slurm gave it fewer.
pub fn cores() -> usize {
    let usable = std::thread::available_parallelism().map_or(1, NonZero::get);
    Allocation::of_process().cpus.map_or(usable, |given| usable.min(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(variables: &[(&str, &str)]) -> Allocation {
        Allocation::of(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string()))
    }

    #[test]
    fn a_task_of_slurm_has_what_its_variables_say() {
        let job = ("SLURM_JOB_ID", "7");
        let gib = |gib: u64| Some(gib << 30);
        for (variables, cpus, memory) in [
            (&[job, ("SLURM_CPUS_PER_TASK", "2"), ("SLURM_MEM_PER_NODE", "4096")][..], Some(2), gib(4)),
            (&[job, ("SLURM_CPUS_PER_TASK", "3"), ("SLURM_MEM_PER_CPU", "1024")], Some(3), gib(3)),
            (&[job, ("SLURM_CPUS_ON_NODE", "8"), ("SLURM_MEM_PER_CPU", "1024")], Some(8), gib(8)),
            (&[job, ("SLURM_MEM_PER_CPU", "1024")], None, gib(1)),
            // All of the node's memory, and what is no number.
            (&[job, ("SLURM_MEM_PER_NODE", "0"), ("SLURM_CPUS_PER_TASK", "two")], None, None),
            // No job.
            (&[("SLURM_CPUS_PER_TASK", "2"), ("SLURM_MEM_PER_NODE", "4096")], None, None),
        ] {
            assert_eq!(given(variables), Allocation { cpus, memory }, "{variables:?}");
        }
    }
}
