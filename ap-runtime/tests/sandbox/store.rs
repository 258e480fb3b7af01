//! `ctx.store`: what a step and its host say to each other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_runtime::sandbox::{
    CodeHost, CodeLimits, Metering, NoCodeHost, StoreAct, StoreCall, StoreCallError, StoreScope,
};
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::json;

use crate::{SANDBOX, request};

/// Keeps values, and answers the later the earlier it was asked.
#[derive(Debug, Default)]
struct Slow {
    values: Mutex<BTreeMap<String, String>>,
    calls: Mutex<Vec<String>>,
}

#[async_trait]
impl CodeHost for Slow {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        NoCodeHost.fetch(request).await
    }

    fn key(&self, _: &str) -> Option<Result<SecretString, HttpError>> {
        None
    }

    fn mentions(&self, _: &[u8]) -> bool {
        false
    }

    fn placeholders(&self) -> Vec<String> {
        Vec::new()
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        let number = self.calls.lock().unwrap().len();
        self.calls.lock().unwrap().push(format!("{call:?}"));
        tokio::time::sleep(std::time::Duration::from_millis(20_u64.saturating_sub(5 * number as u64))).await;
        let key = format!("{}{}", if call.scope == StoreScope::Project { "P:" } else { "" }, call.key);
        let mut values = self.values.lock().unwrap();
        match call.act {
            StoreAct::Get if call.key == "broken" => Err(StoreCallError::Unavailable { reason: "not now".to_owned() }),
            StoreAct::Get => Ok(values.get(&key).cloned()),
            StoreAct::Put(json) => Ok(values.insert(key, json).and(None)),
            StoreAct::Delete => Ok(values.remove(&key).and(None)),
        }
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

#[tokio::test]
async fn calls_come_in_the_order_of_the_step_and_cost_the_same_fuel_each_time() {
    let source = "export const code = async (params, ctx) => {
        const { store } = ctx;
        store.put('a', { n: 1 });
        const one = store.get('a');
        store.put('a', [2], 'PROJECT');
        const two = [store.get('a', 'PROJECT'), store.delete('a'), store.get('a'), store.get('none')];
        const broken = await store.get('broken').catch((error) => [error.code, error.message, error instanceof Error]);
        return [await one, await Promise.all(two), broken, Object.keys(ctx), Object.isFrozen(store)];
    }";
    let mut fuel = Vec::new();
    for _ in 0..3 {
        let host = Arc::new(Slow::default());
        let mut request = request(source, "{}");
        request.host = Arc::clone(&host) as _;
        request.limits = CodeLimits::default().with_metering(Metering::Fuel(1_000_000_000)).unwrap();
        let output = SANDBOX.run(request).await.unwrap();
        assert_eq!(
            output.value,
            json!([
                { "n": 1 },
                [[2], null, null, null],
                ["ERR_STORE_UNAVAILABLE", "not now", true],
                ["run", "step", "store"],
                true
            ])
        );
        assert_eq!(host.calls.lock().unwrap().len(), 8);
        assert_eq!(*host.values.lock().unwrap(), BTreeMap::from([("P:a".to_owned(), "[2]".to_owned())]));
        fuel.push(output.fuel.unwrap());
    }
    assert!(fuel.iter().all(|one| *one == fuel[0]), "{fuel:?}");
}

#[tokio::test]
async fn a_step_without_a_store_is_told_so() {
    let source = "export const code = (params, { store }) => store.get('a').catch((error) => error.message)";
    assert_eq!(SANDBOX.run(request(source, "{}")).await.unwrap().value, json!("this step has no store"));
}
