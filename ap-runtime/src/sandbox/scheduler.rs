//! Whose turn it is: projects take turns at the sandbox's threads, and none gets all of them.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ap_core::id::ProjectId;

use super::CodeError;

/// The queue before the sandbox's threads.
pub(crate) struct Scheduler<T> {
    rules: Rules,
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// How much may run and wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rules {
    /// Most steps before their start.
    pub(crate) queue: usize,
    /// Of these, most of one project.
    pub(crate) queue_per_project: usize,
    /// Most steps that have started and not ended.
    pub(crate) live: usize,
    /// Of these, most of one project.
    pub(crate) live_per_project: usize,
    /// Most threads that run steps of one project at a time.
    pub(crate) running_per_project: usize,
}

impl Rules {
    /// At most `live` steps that have started and not ended, and at most a quarter of them of one project.
    pub(crate) fn with_live(self, live: usize) -> Self {
        Self { live, live_per_project: live.div_ceil(4), ..self }
    }

    /// The same where there is room for no more than `room` steps. A quarter of that may be few, so a project may have more of it,
    /// and leaves a quarter to the others.
    pub(crate) fn within(self, room: usize) -> Self {
        let live = self.live.min(room);
        let most = (live - live.div_ceil(4)).max(1);
        Self { live, live_per_project: self.live_per_project.min(most), ..self }
    }
}

/// Which start, among those that wait.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct StartId(u64);

/// Starts a step, which holds the slot until it ends.
pub(crate) type Start<T> = Box<dyn FnOnce(&T, Slot<T>) + Send>;
/// Goes on with a step that waited.
pub(crate) type GoOn<T> = Box<dyn FnOnce(&T) + Send>;

/// What a thread is to do next.
pub(crate) enum Work<T> {
    Start(Start<T>, Slot<T>),
    GoOn(GoOn<T>),
}

/// The place of a step among those that live. Dropping it makes room.
pub(crate) struct Slot<T> {
    scheduler: Arc<Scheduler<T>>,
    project: ProjectId,
}

struct State<T> {
    lanes: HashMap<ProjectId, Lane<T>>,
    /// Projects with something to do, in the order of their turns.
    turns: VecDeque<ProjectId>,
    queued: usize,
    /// How many were ever queued.
    starts: u64,
    live: usize,
    stopped: bool,
}

/// What there is of one project.
struct Lane<T> {
    going_on: VecDeque<GoOn<T>>,
    starting: VecDeque<(StartId, Start<T>)>,
    running: usize,
    live: usize,
}

impl<T> Scheduler<T> {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, state: Mutex::new(State::new()), changed: Condvar::new() }
    }

    /// Queues a step's start.
    pub(crate) fn start(&self, project: ProjectId, start: Start<T>) -> Result<StartId, CodeError> {
        let mut state = self.lock();
        let of_project = state.lanes.get(&project).map_or(0, |lane| lane.starting.len());
        if state.queued >= self.rules.queue || of_project >= self.rules.queue_per_project || state.stopped {
            return Err(CodeError::Busy);
        }
        state.queued += 1;
        state.starts += 1;
        let id = StartId(state.starts);
        state.lane(project).starting.push_back((id, start));
        drop(state);
        self.changed.notify_one();
        Ok(id)
    }

    /// Takes a start that nobody waits for out of the queue. Whether it was still there.
    pub(crate) fn forget(&self, project: ProjectId, id: StartId) -> bool {
        // Dropped when the lock is free again: its request may be large.
        let forgotten = self.lock().forget(project, id);
        forgotten.is_some()
    }

    /// Queues a step that has a slot already: it is never refused.
    pub(crate) fn go_on(&self, project: ProjectId, go_on: GoOn<T>) {
        self.lock().lane(project).going_on.push_back(go_on);
        self.changed.notify_one();
    }

    /// What to do next, once there is something; `None` when the sandbox stops.
    pub(crate) fn next(self: &Arc<Self>) -> Option<(ProjectId, Work<T>)> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some((project, taken)) = state.take(&self.rules) {
                let work = match taken {
                    Taken::Start(start) => Work::Start(start, Slot { scheduler: Arc::clone(self), project }),
                    Taken::GoOn(go_on) => Work::GoOn(go_on),
                };
                return Some((project, work));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a thread is done with what it took for this project.
    pub(crate) fn done(&self, project: ProjectId) {
        let mut state = self.lock();
        let blocked = state.lane_at_limit(project, self.rules.running_per_project);
        if let Some(lane) = state.lanes.get_mut(&project) {
            lane.running = lane.running.saturating_sub(1);
        }
        state.forget_if_idle(project);
        drop(state);
        if blocked {
            self.changed.notify_one();
        }
    }

    /// Lets the threads stop. What is queued is dropped.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let dropped = (mem::take(&mut state.lanes), mem::take(&mut state.turns));
        drop(state);
        drop(dropped); // slots among it take the lock
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken<T> {
    Start(Start<T>),
    GoOn(GoOn<T>),
}

impl<T> State<T> {
    fn new() -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), queued: 0, starts: 0, live: 0, stopped: false }
    }

    fn lane(&mut self, project: ProjectId) -> &mut Lane<T> {
        let lane = self.lanes.entry(project).or_insert_with(Lane::new);
        if lane.is_empty() {
            self.turns.push_back(project); // about to get its first job
        }
        lane
    }

    /// The first job of the first project whose turn it can be; that project is last then.
    fn take(&mut self, rules: &Rules) -> Option<(ProjectId, Taken<T>)> {
        let room = self.live < rules.live;
        let can_run = |project: &ProjectId| self.lanes.get(project).is_some_and(|lane| lane.can_run(rules, room));
        let at = self.turns.iter().position(can_run)?;
        let project = self.turns.remove(at)?;
        let lane = self.lanes.get_mut(&project)?;
        let taken = match lane.going_on.pop_front() {
            Some(go_on) => Taken::GoOn(go_on),
            None => {
                let (_, start) = lane.starting.pop_front()?;
                self.queued -= 1;
                self.live += 1;
                lane.live += 1;
                Taken::Start(start)
            }
        };
        lane.running += 1;
        if !lane.is_empty() {
            self.turns.push_back(project);
        }
        Some((project, taken))
    }

    fn forget(&mut self, project: ProjectId, id: StartId) -> Option<Start<T>> {
        let lane = self.lanes.get_mut(&project)?;
        let at = lane.starting.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let (_, start) = lane.starting.remove(at)?;
        self.queued -= 1;
        if lane.is_empty() {
            self.turns.retain(|waiting| *waiting != project);
        }
        self.forget_if_idle(project);
        Some(start)
    }

    fn lane_at_limit(&self, project: ProjectId, limit: usize) -> bool {
        self.lanes.get(&project).is_some_and(|lane| lane.running >= limit)
    }

    fn forget_if_idle(&mut self, project: ProjectId) {
        let idle = |lane: &Lane<T>| lane.is_empty() && lane.running == 0 && lane.live == 0;
        if self.lanes.get(&project).is_some_and(idle) {
            self.lanes.remove(&project);
        }
    }
}

impl<T> Lane<T> {
    fn new() -> Self {
        Self { going_on: VecDeque::new(), starting: VecDeque::new(), running: 0, live: 0 }
    }

    fn is_empty(&self) -> bool {
        self.going_on.is_empty() && self.starting.is_empty()
    }

    fn can_run(&self, rules: &Rules, room: bool) -> bool {
        let starts = room && self.live < rules.live_per_project && !self.starting.is_empty();
        self.running < rules.running_per_project && (starts || !self.going_on.is_empty())
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let mut state = self.scheduler.lock();
        state.live = state.live.saturating_sub(1);
        if let Some(lane) = state.lanes.get_mut(&self.project) {
            lane.live = lane.live.saturating_sub(1);
        }
        state.forget_if_idle(self.project);
        let waiting = state.queued > 0;
        drop(state);
        if waiting {
            self.scheduler.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { queue: 4, queue_per_project: 3, live: 3, live_per_project: 2, running_per_project: 1 };

    fn project(number: u128) -> ProjectId {
        ProjectId::from_u128(number)
    }

    fn start(scheduler: &Scheduler<()>, number: u128) -> Result<StartId, CodeError> {
        scheduler.start(project(number), Box::new(|_, _| {}))
    }

    fn take(scheduler: &Arc<Scheduler<()>>) -> Option<(u128, Option<Slot<()>>)> {
        let taken = scheduler.lock().take(&RULES);
        taken.map(|(project, taken)| {
            let slot = |_| Slot { scheduler: Arc::clone(scheduler), project };
            (project.as_u128(), matches!(taken, Taken::Start(_)).then_some(()).map(slot))
        })
    }

    #[test]
    fn projects_take_turns_and_none_runs_beyond_its_share() {
        let scheduler = Arc::new(Scheduler::new(RULES));
        for number in [1, 1, 1, 2] {
            start(&scheduler, number).unwrap();
        }
        assert_eq!(start(&scheduler, 3), Err(CodeError::Busy));
        let first = take(&scheduler).unwrap();
        assert_eq!(first.0, 1);
        let second = take(&scheduler).unwrap();
        assert_eq!(second.0, 2);
        assert!(take(&scheduler).is_none(), "project 1 runs one already");
        scheduler.done(project(1));
        let third = take(&scheduler).unwrap();
        assert_eq!(third.0, 1);
        scheduler.done(project(1));
        assert!(take(&scheduler).is_none(), "project 1 has two that live");
        drop(first);
        assert!(take(&scheduler).is_some());
        drop((second, third));
        for number in [1, 1, 2] {
            scheduler.done(project(number));
        }
    }

    #[test]
    fn a_project_fills_its_share_of_the_queue_with_what_is_waited_for() {
        let scheduler = Arc::new(Scheduler::new(RULES));
        let ids: Vec<_> = (0..3).map(|_| start(&scheduler, 1).unwrap()).collect();
        assert_eq!(start(&scheduler, 1), Err(CodeError::Busy), "of this project");
        assert!(scheduler.forget(project(1), ids[1]));
        assert!(!scheduler.forget(project(1), ids[1]));
        assert!(!scheduler.forget(project(2), ids[0]));
        assert_eq!(scheduler.lock().queued, 2);
        let last = start(&scheduler, 1).unwrap();
        let other = start(&scheduler, 2).unwrap();
        assert_eq!(start(&scheduler, 3), Err(CodeError::Busy), "of all");
        for (number, id) in [(1, ids[0]), (1, ids[2]), (1, last)] {
            assert!(scheduler.forget(project(number), id));
        }
        assert_eq!(take(&scheduler).unwrap().0, 2, "project 1 has nothing left, and no turn");
        assert!(!scheduler.forget(project(2), other));
        scheduler.done(project(2));
        let state = scheduler.lock();
        assert!(state.lanes.is_empty() && state.turns.is_empty() && state.queued == 0);
    }

    #[test]
    fn a_project_has_its_share_of_what_room_there_is() {
        let rules = RULES.with_live(256);
        assert_eq!((rules.live, rules.live_per_project), (256, 64));
        assert_eq!(rules.within(256), rules);
        for (room, of_one) in [(1, 1), (2, 1), (4, 3), (10, 7), (80, 60), (100, 64)] {
            assert_eq!(rules.within(room), Rules { live: room, live_per_project: of_one, ..RULES });
        }
    }

    #[test]
    fn what_has_started_goes_on_before_more_starts_and_without_room() {
        let scheduler = Arc::new(Scheduler::new(RULES));
        let mut slots = Vec::new();
        for number in [1, 2, 3] {
            start(&scheduler, number).unwrap();
            slots.push(take(&scheduler).unwrap());
            scheduler.done(project(number));
        }
        start(&scheduler, 1).unwrap();
        assert!(take(&scheduler).is_none(), "three live");
        scheduler.go_on(project(1), Box::new(|_| {}));
        assert!(matches!(take(&scheduler), Some((1, None))));
        scheduler.done(project(1));
        slots.remove(1);
        assert!(matches!(take(&scheduler), Some((1, Some(_)))));
    }

    #[test]
    fn nothing_is_remembered_of_idle_projects() {
        let scheduler = Arc::new(Scheduler::new(RULES));
        for number in 1..=3 {
            start(&scheduler, number).unwrap();
        }
        let mut slots: Vec<_> = (1..=3).map(|_| take(&scheduler).unwrap()).collect();
        for number in 1..=3 {
            scheduler.done(project(number));
        }
        slots.clear();
        let state = scheduler.lock();
        assert!(state.lanes.is_empty() && state.turns.is_empty());
        assert_eq!((state.live, state.queued), (0, 0));
    }
}
