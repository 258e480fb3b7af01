//! Who the server is.

use ap_runtime::backend::postgres::{PostgresBackend, PostgresOpenError, PostgresOptions, PostgresTls};

use crate::support::{Schema, variable};

/// Whether a backend opens by this way.
async fn opens(schema: &Schema, url: &str, tls: PostgresTls, authority: Option<&str>) -> bool {
    let options = PostgresOptions::from_url(url).expect("a URL").with_schema(schema.name()).with_tls(tls);
    let options = match authority {
        Some(variable_name) => options.root_certificate(variable(variable_name)),
        None => options,
    };
    match PostgresBackend::open(options).await {
        Ok(backend) => {
            backend.close().await;
            true
        }
        Err(error) => {
            assert!(matches!(error, PostgresOpenError::Connection(_)), "{error:?}");
            false
        }
    }
}

const CA: &str = "AP_TEST_POSTGRES_CA";
const OTHER_CA: &str = "AP_TEST_POSTGRES_OTHER_CA";

#[tokio::test]
async fn verify_full_takes_the_right_name_signed_by_the_right_authority_only() {
    let schema = Schema::new();
    let (named, unnamed) = (variable("AP_TEST_POSTGRES_TLS_URL"), variable("AP_TEST_POSTGRES_URL"));
    assert!(opens(&schema, &named, PostgresTls::VerifyFull, Some(CA)).await);
    assert!(!opens(&schema, &named, PostgresTls::VerifyFull, Some(OTHER_CA)).await, "another authority");
    assert!(!opens(&schema, &named, PostgresTls::VerifyFull, None).await, "no public authority");
    assert!(!opens(&schema, &unnamed, PostgresTls::VerifyFull, Some(CA)).await, "another name");
}

#[tokio::test]
async fn verify_ca_asks_for_the_authority_and_require_for_nothing() {
    let schema = Schema::new();
    let unnamed = variable("AP_TEST_POSTGRES_URL");
    assert!(opens(&schema, &unnamed, PostgresTls::VerifyCa, Some(CA)).await);
    assert!(!opens(&schema, &unnamed, PostgresTls::VerifyCa, Some(OTHER_CA)).await, "another authority");
    assert!(opens(&schema, &unnamed, PostgresTls::Require, None).await);
}
