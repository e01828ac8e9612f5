//! An HTTP service under tokio hands each request to a pool; a request that crashes its worker gets an error.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use multiproc::Pool;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::sleep;

/// Runs in a worker. Zero crashes it, as a bug in a C library would.
fn smallest_factor(number: u64) -> u64 {
    if number == 0 {
        std::process::abort();
    }
    (2..number).find(|factor| number.is_multiple_of(*factor)).unwrap_or(number)
}

async fn answer(pool: &Pool, path: &str) -> (StatusCode, String) {
    let Ok(number) = path.trim_start_matches('/').parse() else {
        return (StatusCode::BAD_REQUEST, format!("{path} is not a number"));
    };
    let result = async { pool.submit(smallest_factor, (number,))?.await };
    match result.await {
        Ok(factor) => (StatusCode::OK, format!("{number} is divisible by {factor}")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn respond(pool: Arc<Pool>, request: Request<Incoming>) -> hyper::http::Result<Response<String>> {
    let (status, text) = answer(&pool, request.uri().path()).await;
    Response::builder().status(status).body(text)
}

async fn serve(listener: TcpListener, pool: Arc<Pool>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await; // until there is a descriptor for it
            continue;
        };
        let pool = Arc::clone(&pool);
        let service = service_fn(move |request| respond(Arc::clone(&pool), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    multiproc::init(); // before the runtime starts its threads
    let pool = Arc::new(Pool::new(2)?);
    let runtime = Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    runtime.spawn(serve(listener, pool));
    for number in ["1000003", "0", "91"] {
        let request = ureq::get(format!("http://{address}/{number}")).config().http_status_as_error(false);
        let mut response = request.build().call()?;
        println!("GET /{number}: {} {}", response.status(), response.body_mut().read_to_string()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
