//! The least that GitLab's REST interface lets a first reading be done with.
//!
//! Counted from the rows, like the oracle of what must be stored, so that it is a bound on every client and not a memory of
//! what ours did. It is what a reader would need that made no mistake and was never unsure: each list once in pages of a
//! hundred, the discussions of what has comments, the details of finished pipelines. Nothing is added for finding out where to
//! begin, for reading a page again, or for the server's state.

use super::access::Viewer;
use super::expected::{EventType, Selection};
use super::graph::Walk;
use super::model::{Feature, Project, Threads};
use super::world::World;

/// Rows on a page, at most.
const PAGE: usize = 100;

/// Pages of a list: an empty one has to be asked for, too.
fn pages(rows: usize) -> usize {
    rows.div_ceil(PAGE).max(1)
}

impl World {
    /// Fewest requests of a first reading of this selection, for all kinds of records.
    #[must_use]
    pub fn least_requests(&self, selection: &Selection) -> usize {
        let viewer = self.viewer(&selection.token);
        let selected = self.selected_projects(selection);
        let groups: usize = selection
            .groups
            .iter()
            .map(|&group| pages(self.group_projects(group, true, false).len()))
            .sum();
        let read: usize = selected
            .iter()
            .filter_map(|id| self.projects.get(id))
            .map(|project| self.least_for(selection, viewer, project))
            .sum();
        groups + selection.projects.len() + read
    }

    fn least_for(&self, selection: &Selection, viewer: Viewer, project: &Project) -> usize {
        let sees = |feature| self.sees_feature(viewer, project, feature);
        let mut least = 0;
        // A list that is switched off has to be asked for once all the same.
        least += 1;
        if sees(Feature::MergeRequests) {
            least += pages(project.merge_requests.len()) - 1;
            let found = project.merge_requests.values();
            least += found
                .map(|found| discussions(&found.threads))
                .sum::<usize>();
        }
        least += 1;
        if sees(Feature::Issues) {
            let listed = project
                .issues
                .values()
                .filter(|issue| self.sees_issue(viewer, project, issue));
            least += pages(listed.clone().count()) - 1;
            least += listed
                .filter(|issue| selection.include_confidential || !issue.confidential)
                .map(|issue| discussions(&issue.threads))
                .sum::<usize>();
        }
        // Whether there is a repository, the project itself says.
        if let Some(head) = project.repository.default_head()
            && sees(Feature::Repository)
        {
            let walk = Walk {
                from: vec![head.clone()],
                ..Walk::default()
            };
            least += pages(project.repository.log(&walk).len());
        }
        least += 1;
        if sees(Feature::Builds) {
            let (children, others): (Vec<_>, Vec<_>) = project
                .pipelines
                .values()
                .partition(|pipeline| pipeline.source == "parent_pipeline");
            least += pages(others.len()) - 1;
            // The pipelines that a pipeline started are a list of their own.
            if !project.pipelines.is_empty() {
                least += pages(children.len());
            }
        }
        least += 1;
        if sees(Feature::Releases) {
            least += pages(project.releases.len()) - 1;
        }
        least + self.finished_pipelines(selection, project.id)
    }

    fn finished_pipelines(&self, selection: &Selection, project: u64) -> usize {
        let one = Selection {
            groups: Vec::new(),
            projects: vec![project],
            event_types: [EventType::Pipeline].into(),
            ..selection.clone()
        };
        self.expected(&one).len()
    }
}

/// Pages of the discussions of one merge request or issue; none where nobody said anything.
fn discussions(threads: &Threads) -> usize {
    if threads.user_notes() == 0 {
        0
    } else {
        pages(threads.discussions.len())
    }
}
