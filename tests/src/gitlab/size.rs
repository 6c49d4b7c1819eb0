//! How much history to generate.

/// Counts per project, unless said otherwise.
#[derive(Clone, Debug)]
pub struct Size {
    /// Projects with content.
    pub projects: usize,
    /// Merge requests.
    pub merge_requests: usize,
    /// Issues.
    pub issues: usize,
    /// Mean number of discussions of a merge request or issue; some have none, some have many.
    pub discussions: usize,
    /// Commits, roughly: merges add some.
    pub commits: usize,
    /// Pipelines.
    pub pipelines: usize,
    /// Releases.
    pub releases: usize,
    /// In the whole world: merge requests whose description is longer than 100 KB.
    pub huge_texts: usize,
    /// Adds an empty project, one with features switched off, an archived one, one that is shared and a private one.
    pub oddities: bool,
}

impl Size {
    /// A handful of records: for tests that count them by hand.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            projects: 2,
            merge_requests: 6,
            issues: 5,
            discussions: 2,
            commits: 12,
            pipelines: 8,
            releases: 2,
            huge_texts: 0,
            oddities: true,
        }
    }

    /// Enough to look alive on a screen: about 1,500 records.
    #[must_use]
    pub fn demo() -> Self {
        Self {
            projects: 4,
            merge_requests: 40,
            issues: 30,
            discussions: 3,
            commits: 80,
            pipelines: 40,
            releases: 6,
            huge_texts: 1,
            oddities: true,
        }
    }

    /// `n` projects with a handful of records each: for what costs something per project.
    #[must_use]
    pub fn small_projects(n: usize) -> Self {
        Self {
            projects: n,
            merge_requests: 2,
            issues: 2,
            discussions: 1,
            commits: 3,
            pipelines: 2,
            releases: 1,
            huge_texts: 0,
            oddities: false,
        }
    }

    /// About `n` records in total, over few projects.
    #[must_use]
    pub fn items(n: usize) -> Self {
        let projects = (n / 2_500).clamp(1, 8);
        let share = n / projects;
        Self {
            projects,
            merge_requests: (share / 10).max(1),
            issues: (share * 8 / 100).max(1),
            discussions: 2,
            commits: (share / 5).max(1),
            pipelines: (share / 10).max(1),
            releases: (share / 50).max(1),
            huge_texts: 0,
            oddities: false,
        }
    }
}
