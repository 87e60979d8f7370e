//! The backend under its real web server, and somebody who has logged in.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use minreq::{Method, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::common::{Sandbox, wait_until};

/// How many commands of a kind the backend runs at once.
pub const AT_ONCE: usize = 3;

/// Longer than any answer takes, the one to a request that waits in vain for another command
/// included, in seconds.
const LONGEST: u64 = 120;

/// uvicorn with the backend, on a port of its own. Gone with this.
#[derive(Debug)]
pub struct Backend {
    process: Child,
    log: NamedTempFile,
    /// Where it is, without a slash at the end.
    pub url: String,
}

impl Backend {
    /// Serves `sandbox`; `settings` are laid over its environment.
    pub fn serve(sandbox: &Sandbox, settings: &[(&str, &str)]) -> Backend {
        let mut uvicorn = Command::new("/usr/bin/python3");
        uvicorn.args(["-m", "uvicorn", "--port", "0", "--no-access-log"]);
        uvicorn.arg("--app-dir");
        uvicorn.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backend"));
        uvicorn.arg("trusting:app");
        sandbox.confine(&mut uvicorn);
        uvicorn
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("BACKEND_SECRET", "known to the tests")
            .env("BACKEND_CYYBER", env!("CARGO_BIN_EXE_cyyber"))
            .env("BACKEND_AT_ONCE", AT_ONCE.to_string())
            .envs(settings.iter().copied())
            .stdout(Stdio::null());
        let log = NamedTempFile::new().unwrap();
        uvicorn.stderr(log.reopen().unwrap());
        let mut backend = Backend {
            process: uvicorn.spawn().unwrap(),
            log,
            url: String::new(),
        };
        wait_until("uvicorn listens", || {
            let log = fs::read_to_string(&backend.log).unwrap();
            let Some((_, url)) = log.split_once("running on ") else {
                assert_eq!(backend.process.try_wait().unwrap(), None, "{log}");
                return false;
            };
            backend.url = url.split(' ').next().unwrap().to_owned();
            !backend.url.is_empty()
        });
        backend
    }

    /// The commands that it runs just now.
    pub fn children(&self) -> usize {
        let pid = self.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().count()
    }

    /// Logs `user` in.
    pub fn log_in(&self, user: &str) -> Session<'_> {
        self.session(&format!("user={user}"))
    }

    /// Logs an administrator in.
    pub fn log_in_admin(&self) -> Session<'_> {
        self.session("user=root&admin=true")
    }

    /// Somebody who sends `cookie` along.
    pub fn with_cookie(&self, cookie: &str) -> Session<'_> {
        Session {
            backend: self,
            cookie: cookie.to_owned(),
            origin: Some(self.url.clone()),
        }
    }

    fn session(&self, who: &str) -> Session<'_> {
        let login = self.with_cookie("").send("POST", &format!("/login?{who}"));
        assert_eq!(login.status_code, 204);
        let cookie = login.header("set-cookie").unwrap();
        for flag in ["httponly", "samesite=lax", "secure"] {
            assert!(cookie.contains(flag), "{cookie}");
        }
        self.with_cookie(cookie.split(';').next().unwrap())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // It ends what it runs, and itself.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
        // Shown only where the test fails.
        eprint!("{}", fs::read_to_string(&self.log).unwrap_or_default());
    }
}

/// Somebody with a cookie.
#[derive(Debug)]
pub struct Session<'a> {
    backend: &'a Backend,
    pub cookie: String,
    /// Whose page it is that sends the requests.
    pub origin: Option<String>,
}

impl Session<'_> {
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path)
    }

    #[track_caller]
    pub fn post(&self, path: &str) -> Answer {
        self.ask("POST", path)
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path)
    }

    #[track_caller]
    pub fn ask(&self, method: &str, path: &str) -> Answer {
        let response = self.send(method, path);
        let header = |name: &str| response.header(name).map(str::to_owned);
        Answer {
            what: format!("{method} {path}"),
            status: response.status_code,
            retry_after: header("retry-after"),
            cache: header("cache-control"),
            console: header("x-console"),
            content_policy: header("content-security-policy"),
            text: response.as_str().unwrap().to_owned(),
        }
    }

    fn send(&self, method: &str, path: &str) -> Response {
        let url = format!("{}{path}", self.backend.url);
        let mut request = minreq::Request::new(Method::Custom(method.to_owned()), url)
            .with_header("cookie", &self.cookie)
            .with_timeout(LONGEST);
        if let Some(origin) = &self.origin {
            request = request.with_header("origin", origin);
        }
        request.send().unwrap()
    }
}

/// What the backend answered.
#[derive(Debug)]
pub struct Answer {
    what: String,
    pub status: u16,
    pub retry_after: Option<String>,
    pub cache: Option<String>,
    pub console: Option<String>,
    pub content_policy: Option<String>,
    pub text: String,
}

impl Answer {
    /// The JSON of an answer with `status`, which nobody may keep a copy of.
    #[track_caller]
    pub fn json(self, status: u16) -> Value {
        let (what, text) = (&self.what, &self.text);
        assert_eq!(self.status, status, "{what}: {text}");
        assert_eq!(self.cache.as_deref(), Some("no-store"), "{what}: {text}");
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {what}: {text}"))
    }

    /// The JSON of an answer that all is well.
    #[track_caller]
    pub fn ok(self) -> Value {
        self.json(200)
    }

    /// Asserts that it failed with this `status` and `code`, and says something to the student.
    #[track_caller]
    pub fn fails(self, status: u16, code: &str) {
        let what = self.what.clone();
        let later = self.retry_after.is_some();
        let body = self.json(status);
        assert_eq!(body["error"]["code"], code, "{what}: {body}");
        // As the document has it, and nothing of the program's hint.
        assert_eq!(
            body["error"].as_object().unwrap().len(),
            2,
            "{what}: {body}"
        );
        let message = body["error"]["message"].as_str().unwrap();
        // Nothing of the server's paths.
        assert!(
            !message.is_empty() && !message.contains('/'),
            "{what}: {body}"
        );
        assert_eq!(later, [423, 429, 503, 504, 507].contains(&status), "{what}");
    }
}
