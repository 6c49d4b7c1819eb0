use std::net::SocketAddr;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::*;

/// What somebody got to read.
type Heard = Arc<Mutex<Vec<String>>>;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Every name is this machine.
struct Here;

impl Lookup for Here {
    fn addresses(&self, _: String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(vec![([127, 0, 0, 1], 0).into()]) })
    }
}

/// A certificate for `gitlab.example`, and the file in which its CA stands.
struct Authority {
    server: Arc<ServerConfig>,
    file: tempfile::NamedTempFile,
}

fn authority(protocols: &[&[u8]]) -> Authority {
    let made = rcgen::generate_simple_self_signed(vec!["gitlab.example".into()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Authority {
        server: Arc::new(server),
        file,
    }
}

async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Answers each request of a connection alike.
async fn answer(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    heard: Heard,
    words: String,
) {
    loop {
        let head = head(&mut stream).await;
        if head.is_empty() {
            break;
        }
        heard.lock().unwrap().push(head);
        if stream.write_all(words.as_bytes()).await.is_err() {
            break;
        }
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn serve(words: impl Into<String>) -> (u16, Heard) {
    let ((listener, port), heard) = (listen().await, Heard::default());
    let (requests, words) = (Arc::clone(&heard), words.into());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&requests), words.clone()));
        }
    });
    (port, heard)
}

async fn serve_tls(authority: &Authority) -> (u16, Heard) {
    let ((listener, port), heard) = (listen().await, Heard::default());
    let (requests, acceptor) = (
        Arc::clone(&heard),
        TlsAcceptor::from(Arc::clone(&authority.server)),
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(answer(stream, Arc::clone(&requests), HELLO.into()));
            }
        }
    });
    (port, heard)
}

/// A proxy that opens tunnels to this machine for who knows the password.
async fn tunnels() -> (u16, Heard) {
    let ((listener, port), heard) = (listen().await, Heard::default());
    let requests = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head(&mut stream).await;
            requests.lock().unwrap().push(head.clone());
            let port = head.split([':', ' ']).nth(2).unwrap();
            let knows = head.contains("Basic YWRhOmxvdmVsYWNl");
            let words = if knows { "200 OK" } else { "407 No" };
            let words = format!("HTTP/1.1 {words}\r\n\r\n");
            stream.write_all(words.as_bytes()).await.unwrap();
            if knows {
                let server = TcpStream::connect(format!("127.0.0.1:{port}")).await;
                let mut server = server.unwrap();
                tokio::spawn(async move {
                    tokio::io::copy_bidirectional(&mut stream, &mut server).await
                });
            }
        }
    });
    (port, heard)
}

fn client_behind(
    proxies: &Matcher,
    base: &str,
    ca_file: Option<&Path>,
) -> Result<HttpClient, String> {
    let base = url::Url::parse(base).unwrap();
    let policy = Arc::new(Policy::users_word(&base));
    let second = Duration::from_secs(1);
    build_behind(proxies, &base, ca_file, second, &policy, Arc::new(Here))
}

fn client(base: &str, ca_file: Option<&Path>) -> HttpClient {
    client_behind(&Matcher::builder().build(), base, ca_file).unwrap()
}

fn get(url: &str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = uri(url).unwrap();
    let token = HeaderValue::from_static("secret");
    request.headers_mut().insert("private-token", token);
    request
}

async fn text_of(mut answer: Answer) -> Result<String, ExchangeError> {
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn one_connection_carries_one_request_after_the_other() {
    let (port, heard) = serve(HELLO).await;
    let url = format!("http://gitlab.example:{port}/a?b=c");
    let client = client(&url, None);
    for _ in 0..2 {
        let answer = client.send(get(&url)).await.unwrap();
        assert_eq!(answer.content_length(), Some(5));
        assert_eq!(text_of(answer).await.unwrap(), "hello");
    }
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 2);
    for head in heard.iter() {
        assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
        let host = format!("host: gitlab.example:{port}\r\n");
        for line in [&host, "accept: */*\r\n", "accept-encoding: gzip\r\n"] {
            assert!(head.contains(line), "{head}");
        }
    }
}

#[tokio::test]
async fn large_answers_come_in_small_pieces_and_whole() {
    let text = "All work and no play. ".repeat(50_000);
    let words = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    let (port, _) = serve(words).await;
    let url = format!("http://gitlab.example:{port}/");
    let client = client(&url, None);
    for _ in 0..3 {
        let mut answer = client.send(get(&url)).await.unwrap();
        let mut whole = Vec::new();
        while let Some(chunk) = answer.chunk().await.unwrap() {
            assert!(chunk.len() <= READ_BYTES, "{} bytes", chunk.len());
            whole.extend_from_slice(&chunk);
        }
        assert!(whole == text.as_bytes());
    }
}

#[tokio::test]
async fn an_answer_that_ends_too_early_is_broken() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            head(&mut stream).await;
            let words = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello";
            stream.write_all(words).await.unwrap();
        }
    });
    let url = format!("http://gitlab.example:{port}/");
    let answer = client(&url, None).send(get(&url)).await.unwrap();
    let error = text_of(answer).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Broken(_)), "{error}");
    assert!(!error.is_untouched());
}

#[tokio::test]
async fn where_nobody_listens_there_is_no_connection_and_nothing_was_sent() {
    let (listener, port) = listen().await;
    drop(listener);
    let url = format!("http://gitlab.example:{port}/");
    let error = client(&url, None).send(get(&url)).await.unwrap_err();
    assert!(error.is_untouched());
    assert_eq!(
        error.to_string(),
        "no connection: Connection refused (os error 111)"
    );
}

#[tokio::test]
async fn a_server_that_says_nothing_while_tls_begins_is_given_up_in_time() {
    let (listener, port) = listen().await;
    let authority = authority(&[]);
    let url = format!("https://gitlab.example:{port}/");
    let client = client(&url, Some(authority.file.path()));
    let error = client.send(get(&url)).await.unwrap_err();
    assert!(
        matches!(
            error,
            ExchangeError::NoConnection {
                timed_out: true,
                ..
            }
        ),
        "{error}"
    );
    drop(listener);
}

#[tokio::test]
async fn a_private_ca_is_trusted_where_it_is_named_and_for_the_names_that_it_vouches_for() {
    let authority = authority(&[]);
    let (port, heard) = serve_tls(&authority).await;
    let url = format!("https://gitlab.example:{port}/");
    let trusting = client(&url, Some(authority.file.path()));
    let answer = trusting.send(get(&url)).await.unwrap();
    assert_eq!(text_of(answer).await.unwrap(), "hello");

    let another = format!("https://other.example:{port}/");
    for (client, url) in [(client(&url, None), &url), (trusting, &another)] {
        let error = client.send(get(url)).await.unwrap_err();
        assert!(error.is_untouched());
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    assert_eq!(heard.lock().unwrap().len(), 1, "no token without trust");
}

#[tokio::test]
async fn http_2_is_spoken_with_who_offers_it() {
    let authority = authority(&[b"h2", b"http/1.1"]);
    let (listener, port) = listen().await;
    let acceptor = TlsAcceptor::from(Arc::clone(&authority.server));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            let service = service_fn(|request: Request<Incoming>| async move {
                let words = format!("{:?} {}", request.version(), request.uri().path());
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(
                    words,
                ))))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let url = format!("https://gitlab.example:{port}/a");
    let client = client(&url, Some(authority.file.path()));
    let answers = (0..20).map(|_| async { text_of(client.send(get(&url)).await.unwrap()).await });
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer.unwrap(), "HTTP/2.0 /a");
    }
}

/// A server of HTTP/2 that refuses each second request, beginning with the first, and then those after `most`.
async fn refuses_streams(authority: &Authority, most: usize) -> u16 {
    let (listener, port) = listen().await;
    let acceptor = TlsAcceptor::from(Arc::clone(&authority.server));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut count = 0;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                count += 1;
                if count % 2 == 1 || count > most {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    let answer = http::Response::new(());
                    let mut body = respond.send_response(answer, false).unwrap();
                    body.send_data(Bytes::from_static(b"hello"), true).unwrap();
                }
            }
        }
    });
    port
}

#[tokio::test]
async fn what_a_server_of_http_2_lets_lie_is_sent_again_whatever_it_is() {
    let authority = authority(&[b"h2"]);
    let port = refuses_streams(&authority, 4).await;
    let url = format!("https://gitlab.example:{port}/a");
    let client = client(&url, Some(authority.file.path()));
    for _ in 0..2 {
        let mut post = get(&url);
        *post.method_mut() = http::Method::POST;
        let answer = client.send(post).await.unwrap();
        assert_eq!(text_of(answer).await.unwrap(), "hello");
    }
    let error = client.send(get(&url)).await.unwrap_err();
    assert!(error.is_untouched(), "{error}");
    assert!(!error.is_final());
}

#[tokio::test]
async fn a_head_that_never_ends_is_named_and_not_asked_for_again() {
    let head = format!("HTTP/1.1 200 OK\r\nlink: {}\r\n\r\n", "a".repeat(40_000));
    let (port, _) = serve(head).await;
    let url = format!("http://gitlab.example:{port}/");
    let error = client(&url, None).send(get(&url)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the head of the answer is over 16384 bytes"
    );
    assert!(error.is_final() && !error.is_untouched());
}

#[tokio::test]
async fn a_url_of_another_scheme_than_that_of_the_server_is_not_dialled() {
    let (proxy, heard) = serve(HELLO).await;
    let proxies = Matcher::builder()
        .http(format!("http://proxy.example:{proxy}"))
        .build();
    let client = client_behind(&proxies, "http://gitlab.example/", None).unwrap();
    let error = client
        .send(get("https://gitlab.example/"))
        .await
        .unwrap_err();
    assert!(error.is_untouched(), "{error}");
    assert!(heard.lock().unwrap().is_empty());
}

#[test]
fn a_url_with_a_password_is_refused_without_it() {
    let error = uri("https://ada:lovelace@gitlab.example/").unwrap_err();
    assert!(error.is_final());
    assert!(!error.to_string().contains("lovelace"), "{error}");
}

#[tokio::test]
async fn through_a_proxy_https_is_a_tunnel_that_it_cannot_look_into() {
    let authority = authority(&[]);
    let (port, heard) = serve_tls(&authority).await;
    let (proxy, heard_by_the_proxy) = tunnels().await;
    let url = format!("https://gitlab.example:{port}/a");
    let behind = |user: &str| {
        let proxy = format!("http://{user}proxy.example:{proxy}");
        let proxies = Matcher::builder().https(proxy).build();
        client_behind(&proxies, &url, Some(authority.file.path())).unwrap()
    };
    let client = behind("ada:lovelace@");
    for _ in 0..2 {
        let answer = client.send(get(&url)).await.unwrap();
        assert_eq!(text_of(answer).await.unwrap(), "hello");
    }
    {
        let heard = heard.lock().unwrap();
        assert!(heard[1].starts_with("GET /a HTTP/1.1\r\n"), "{}", heard[1]);
        assert!(heard.iter().all(|head| !head.contains("proxy-auth")));
        let heard = heard_by_the_proxy.lock().unwrap();
        assert_eq!(heard.len(), 1, "one tunnel");
        let opened = format!("CONNECT gitlab.example:{port} HTTP/1.1\r\n");
        assert!(heard[0].starts_with(&opened), "{}", heard[0]);
        assert!(!heard[0].contains("secret"));
    }

    let error = behind("").send(get(&url)).await.unwrap_err();
    assert!(error.is_untouched());
    assert!(
        error.to_string().contains("proxy authorization required"),
        "{error}"
    );
    assert_eq!(heard.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn through_a_proxy_plain_http_is_asked_by_its_whole_url() {
    let (proxy, heard) = serve(HELLO).await;
    let url = "http://gitlab.example/a?b=c";
    let proxy = format!("http://ada:lovelace@proxy.example:{proxy}");
    let proxies = Matcher::builder().http(proxy).build();
    let client = client_behind(&proxies, url, None).unwrap();
    let answer = client.send(get(url)).await.unwrap();
    assert_eq!(text_of(answer).await.unwrap(), "hello");
    let heard = heard.lock().unwrap();
    assert!(
        heard[0].starts_with("GET http://gitlab.example/a?b=c HTTP/1.1\r\n"),
        "{}",
        heard[0]
    );
    let authorization = "proxy-authorization: Basic YWRhOmxvdmVsYWNl\r\n";
    assert!(heard[0].contains(authorization), "{}", heard[0]);
}

#[test]
fn a_proxy_that_cannot_be_used_is_named_by_its_kind_and_without_its_password() {
    let proxies = Matcher::builder()
        .all("socks5://ada:lovelace@proxy.example:1080")
        .build();
    let error = client_behind(&proxies, "https://gitlab.example/", None).unwrap_err();
    assert!(error.contains("socks5") && error.contains("HTTPS_PROXY"));
    assert!(!error.contains("lovelace"), "{error}");
}

#[test]
fn a_ca_file_without_certificates_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no certificate").unwrap();
    let missing = Path::new("/nowhere/ca.pem");
    for path in [file.path(), missing] {
        let proxies = Matcher::builder().build();
        let error = client_behind(&proxies, "https://gitlab.example/", Some(path)).unwrap_err();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
