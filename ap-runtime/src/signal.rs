//! Telling a run something from outside: sealed, kept by the store until the run takes it in.

use ap_auth::audit::AuditEvent;
use ap_core::{
    id::{ProjectId, RunId},
    store::LookupHash,
};

use crate::{engine::Signal, journal::RunError, kernel::Kernel, store::Signaled, subject::RunKeys, wakeup::Hint};

impl Kernel {
    /// Keeps `signal` for a run, with the audit record of `event` if it is kept, and wakes whoever executes or can claim it.
    pub(crate) async fn tell(
        &self,
        keys: RunKeys<'_>,
        (project, run, slot): (ProjectId, RunId, LookupHash),
        signal: &Signal,
        event: &AuditEvent,
    ) -> Result<Signaled, RunError> {
        let signal = self.seal_signal(keys, (project, run), slot, signal)?;
        let audit = [self.seal_event(keys.tenant, event)?];
        let told = self.backend.signal(signal, &audit).await?;
        if told == Signaled::Delivered {
            self.wakeup.notify(Hint::Signaled(run));
        }
        Ok(told)
    }
}
