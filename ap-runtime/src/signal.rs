//! Telling a run something from outside: sealed, kept by the store until the run takes it in.

use ap_auth::audit::AuditEvent;
use ap_core::{
    id::{ProjectId, RunId, SignalId},
    store::LookupHash,
};
use ap_crypto::vault::TenantKeys;

use crate::{
    engine::Signal,
    journal::RunError,
    kernel::Kernel,
    records,
    store::{SignalRecord, Signaled},
    wakeup::Hint,
};

impl Kernel {
    /// Keeps `signal` for a run, with the audit record of `event` if it is kept, and wakes whoever executes or can claim it.
    pub(crate) async fn tell(
        &self,
        keys: &TenantKeys,
        (project, run, slot): (ProjectId, RunId, LookupHash),
        signal: &Signal,
        event: &AuditEvent,
    ) -> Result<Signaled, RunError> {
        let at = self.clock.now();
        let id = SignalId::from_parts(at, self.id_entropy()?);
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(signal).map_err(RunError::Encoding)?);
        let key = records::signal_key(run, id, &slot);
        let sealed = keys.seal(&records::signal(&key, project), &plain, &*self.entropy)?;
        let audit = [self.seal_event(keys, event)?];
        let told = self.backend.signal(SignalRecord { id, project, run, slot, at, sealed }, &audit).await?;
        if told == Signaled::Delivered {
            self.wakeup.notify(Hint::Signaled(run));
        }
        Ok(told)
    }
}
