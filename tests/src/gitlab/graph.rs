//! Reachability in the commit graph, with the semantics of `git log`.
//!
//! An incremental reader of commits depends on three things that a list sorted by date would hide: `old..new` means
//! "reachable from new and not from old" however old the commits are, a walk is ordered by committer date but follows parents,
//! and `--since` prunes the walk at the first old commit, so that newer commits behind it are lost.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use super::clock::Micros;
use super::model::{Commit, Repository};

/// What a walk starts from and leaves out.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Commits to start from.
    pub from: Vec<String>,
    /// Everything reachable from these is left out.
    pub not: Vec<String>,
    /// Leave out commits committed before this second, and whatever lies behind them.
    pub since: Option<Micros>,
    /// Leave out commits committed after this second, but look behind them.
    pub until: Option<Micros>,
    /// Follow first parents only.
    pub first_parent: bool,
}

/// How a `ref_name` was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// One commit.
    Single(String),
    /// `old..new`.
    Range(String, String),
    /// Not a legal name.
    Invalid,
    /// Legal, but names nothing (anymore).
    Missing,
}

/// Commits to visit: newest date first, then first come first served.
type Queue<'r> = BinaryHeap<(i64, Reverse<usize>, &'r str)>;

impl Repository {
    /// Whether there is no commit on any branch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }

    /// The head of the default branch.
    #[must_use]
    pub fn default_head(&self) -> Option<&String> {
        self.branches.get(&self.default_branch)
    }

    /// Finds a commit by branch, tag, sha or a prefix of a sha of at least seven digits.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<String> {
        if name == "HEAD" {
            return self.default_head().cloned();
        }
        let short = name
            .strip_prefix("refs/heads/")
            .or_else(|| name.strip_prefix("refs/tags/"))
            .unwrap_or(name);
        if let Some(sha) = self.branches.get(short).or_else(|| self.tags.get(short)) {
            return Some(sha.clone());
        }
        if self.commits.contains_key(name) {
            return Some(name.to_owned());
        }
        if (7..40).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return self
                .commits
                .keys()
                .find(|sha| sha.starts_with(name))
                .cloned();
        }
        None
    }

    /// Understands a `ref_name` parameter.
    #[must_use]
    pub fn revision(&self, text: &str) -> Revision {
        let illegal = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        if text.is_empty()
            || text.starts_with('-')
            || text.contains("...")
            || text.contains(illegal)
        {
            return Revision::Invalid;
        }
        match text.split_once("..") {
            Some(("", _)) | Some((_, "")) => Revision::Invalid,
            Some((old, new)) => match (self.resolve(old), self.resolve(new)) {
                (Some(old), Some(new)) => Revision::Range(old, new),
                _ => Revision::Missing,
            },
            None => self
                .resolve(text)
                .map_or(Revision::Missing, Revision::Single),
        }
    }

    /// Every sha reachable from the given ones, themselves included.
    #[must_use]
    pub fn reachable<'r>(&'r self, from: &[String]) -> HashSet<&'r str> {
        let mut seen = HashSet::new();
        let mut stack: Vec<&str> = from.iter().map(String::as_str).collect();
        while let Some(sha) = stack.pop() {
            let Some(commit) = self.commits.get(sha) else {
                continue;
            };
            if seen.insert(commit.sha.as_str()) {
                stack.extend(commit.parents.iter().map(String::as_str));
            }
        }
        seen
    }

    /// The commits of a walk, newest committer date first.
    #[must_use]
    pub fn log<'r>(&'r self, walk: &Walk) -> Vec<&'r Commit> {
        let mut seen: HashSet<&'r str> = HashSet::new();
        let excluded: HashSet<&str> = self.reachable(&walk.not);
        // Equal dates leave the queue in the order in which they entered it, as in git.
        let mut queue: Queue<'r> = BinaryHeap::new();
        let mut entered = 0;
        let mut enter = |sha: &str, queue: &mut Queue<'r>| {
            if let Some((key, commit)) = self.commits.get_key_value(sha)
                && !excluded.contains(sha)
                && seen.insert(key.as_str())
            {
                entered += 1;
                queue.push((commit.committed_at.unix(), Reverse(entered), key));
            }
        };
        for sha in &walk.from {
            enter(sha, &mut queue);
        }
        let mut out = Vec::new();
        while let Some((date, _, sha)) = queue.pop() {
            let Some(commit) = self.commits.get(sha) else {
                continue;
            };
            if walk.since.is_some_and(|since| date < since.unix()) {
                continue;
            }
            let parents = if walk.first_parent {
                1
            } else {
                commit.parents.len()
            };
            for parent in commit.parents.iter().take(parents) {
                enter(parent, &mut queue);
            }
            if walk.until.is_none_or(|until| date <= until.unix()) {
                out.push(commit);
            }
        }
        out
    }

    /// The heads that `all=true` walks from: branches, tags and the hidden references.
    #[must_use]
    pub fn all_heads(&self) -> Vec<String> {
        self.branches
            .values()
            .chain(self.tags.values())
            .chain(&self.hidden)
            .cloned()
            .collect()
    }

    /// Drops every commit that no branch or tag reaches, and the hidden references with them.
    pub fn collect_garbage(&mut self) {
        let heads: Vec<String> = self
            .branches
            .values()
            .chain(self.tags.values())
            .cloned()
            .collect();
        let keep: HashSet<String> = self
            .reachable(&heads)
            .into_iter()
            .map(str::to_owned)
            .collect();
        self.commits.retain(|sha, _| keep.contains(sha));
        self.hidden.retain(|sha| keep.contains(sha));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gitlab::clock::SECOND;

    /// `root(100) <- a(200) <- m(400, merge of a and old)`, `root <- old(50)`.
    fn repository() -> Repository {
        let mut repository = Repository {
            exists: true,
            default_branch: "main".to_owned(),
            ..Repository::default()
        };
        let mut add = |sha: &str, parents: &[&str], second: i64| {
            let commit = Commit {
                sha: sha.to_owned(),
                parents: parents.iter().map(|&p| p.to_owned()).collect(),
                message: sha.to_owned(),
                author_name: String::new(),
                author_email: String::new(),
                authored_at: Micros(second * SECOND),
                committer_name: String::new(),
                committed_at: Micros(second * SECOND),
                offset_minutes: 0,
            };
            repository.commits.insert(sha.to_owned(), commit);
        };
        add("root", &[], 100);
        add("a", &["root"], 200);
        add("old", &["root"], 50);
        add("m", &["a", "old"], 400);
        repository
            .branches
            .insert("main".to_owned(), "m".to_owned());
        repository
    }

    fn shas(commits: &[&Commit]) -> Vec<String> {
        commits.iter().map(|commit| commit.sha.clone()).collect()
    }

    #[test]
    fn a_range_holds_what_new_reaches_and_old_does_not_however_old_it_is() {
        let repository = repository();
        let walk = Walk {
            from: vec!["m".to_owned()],
            not: vec!["a".to_owned()],
            ..Walk::default()
        };
        assert_eq!(shas(&repository.log(&walk)), ["m", "old"]);
    }

    #[test]
    fn since_prunes_the_walk_at_an_old_commit() {
        let repository = repository();
        let walk = Walk {
            from: vec!["m".to_owned()],
            since: Some(Micros(90 * SECOND)),
            ..Walk::default()
        };
        assert_eq!(shas(&repository.log(&walk)), ["m", "a", "root"]);
        let walk = Walk {
            from: vec!["old".to_owned()],
            since: Some(Micros(90 * SECOND)),
            ..Walk::default()
        };
        assert!(
            repository.log(&walk).is_empty(),
            "root is newer, but lies behind an old commit"
        );
    }

    #[test]
    fn revisions_are_branches_shas_ranges_or_nothing() {
        let repository = repository();
        assert_eq!(
            repository.revision("main"),
            Revision::Single("m".to_owned())
        );
        assert_eq!(
            repository.revision("a..main"),
            Revision::Range("a".to_owned(), "m".to_owned())
        );
        assert_eq!(repository.revision("gone..main"), Revision::Missing);
        assert_eq!(repository.revision("a b"), Revision::Invalid);
    }
}
