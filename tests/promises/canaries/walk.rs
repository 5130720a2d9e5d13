//! Requests for every operation of the OpenAPI document, with a canary in each parameter, header and field, rightly and wrongly formed.

use hyper::Method;
use serde_json::{Map, Value, json};

use super::Canaries;

/// A request that carries canaries.
pub struct Request {
    pub method: Method,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What it tries.
    pub what: String,
}

/// Bytes above the limit of a control request, and below those of code and files.
const OVERSIZE: usize = 300 * 1024;

/// Headers that say something of whoever asks, or that a program might read.
const HEADERS: [&str; 12] = [
    "accept",
    "accept-language",
    "authorization",
    "cookie",
    "forwarded",
    "idempotency-key",
    "origin",
    "referer",
    "traceparent",
    "user-agent",
    "x-api-key",
    "x-forwarded-for",
];

/// Good values of fields that keep a request from going anywhere when they are wrong; null leaves a field out.
fn good(field: &str, canary: &str) -> Option<Value> {
    Some(match field {
        "email" | "confirm" => json!(format!("{canary}@example.org")),
        "template" => json!("base"),
        "language" => json!("python"),
        "code" => json!(format!("print('{canary}')")),
        "command" => json!(format!("echo {canary}; echo {canary} >&2")),
        "timeout" | "expiresInDays" => json!(600),
        "metadata" | "envVars" | "envs" => json!({ canary: canary }),
        "name" | "path" | "content" | "oldPath" | "newPath" | "data" | "token" | "challengeId"
        | "verifier" => {
            json!(canary)
        }
        _ => return None,
    })
}

/// One operation of the document.
struct Operation<'a> {
    document: &'a Value,
    name: String,
    method: Method,
    /// With `{…}` where a parameter belongs.
    template: &'a str,
    value: &'a Value,
    sandbox: &'a str,
}

/// Every request. `sandbox` is the id of one that runs, so that what belongs into a guest gets there.
pub fn requests(document: &Value, sandbox: &str, canaries: &mut Canaries) -> Vec<Request> {
    let mut all = Vec::new();
    for (template, item) in document["paths"].as_object().expect("a document has paths") {
        for (method, value) in item.as_object().expect("a path has operations") {
            let method: Method = method.to_ascii_uppercase().parse().expect("a method");
            let name = format!("{method} {template}");
            let operation = Operation { document, name, method, template, value, sandbox };
            operation.with_parameters(canaries, &mut all);
            operation.with_headers(canaries, &mut all);
            operation.with_body(canaries, &mut all);
        }
    }
    for (method, place) in [("CANARY", "a method's neighbour"), ("GET", "a path of no route")] {
        let path = format!("/{}/{}", canaries.at(place), canaries.at(place));
        let method = method.parse().expect("a method");
        all.push(Request { method, path, headers: Vec::new(), body: Vec::new(), what: place.to_owned() });
    }
    all
}

impl Operation<'_> {
    /// The path with this in its parameters, or with the running sandbox where that survives it.
    fn path(&self, parameter: Option<&str>) -> String {
        let outlives = self.method != Method::DELETE || self.template != "/sandboxes/{id}";
        let id = parameter.unwrap_or(if outlives { self.sandbox } else { "none" });
        // No process has this number, so that no stream is opened that has no end.
        self.template
            .replace("{id}", id)
            .replace("{pid}", parameter.unwrap_or("99999"))
            .replace("{month}", id)
    }

    fn request(&self, path: String, what: impl Into<String>) -> Request {
        let (method, what) = (self.method.clone(), format!("{}: {}", self.name, what.into()));
        Request { method, path, headers: Vec::new(), body: Vec::new(), what }
    }

    fn with_parameters(&self, canaries: &mut Canaries, all: &mut Vec<Request>) {
        let mut at = |place: &str| canaries.at(format!("{}: {place}", self.name));
        if self.template.contains('{') {
            all.push(self.request(self.path(Some(&at("path"))), "a parameter in the path"));
        }
        let parameters = self.value["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let query = parameters.iter().filter(|parameter| parameter["in"] == "query");
        let names: Vec<&str> = query.filter_map(|parameter| parameter["name"].as_str()).collect();
        for name in &names {
            let others = names.iter().filter(|other| *other != name && **other == "path");
            let others: String = others.map(|other| format!("&{other}={}", at(other))).collect();
            let value = at(name);
            all.push(
                self.request(format!("{}?{name}={value}{others}", self.path(None)), format!("query {name}")),
            );
        }
        let (key, value) = (at("a query's name"), at("a query's value"));
        all.push(self.request(format!("{}?{key}={value}", self.path(None)), "an unknown query"));
        all.push(self.request(format!("{}?%zz{}", self.path(None), at("a broken query")), "a broken query"));
    }

    fn with_headers(&self, canaries: &mut Canaries, all: &mut Vec<Request>) {
        for name in HEADERS {
            let canary = canaries.at(format!("{}: header {name}", self.name));
            let value = match name {
                "authorization" => format!("Bearer {canary}"),
                "cookie" => format!("omnirun_token={canary}; {canary}={canary}"),
                _ => canary,
            };
            let mut request = self.request(self.path(None), format!("header {name}"));
            request.headers.push((name.to_owned(), value));
            all.push(request);
        }
        let mut request = self.request(self.path(None), "an unknown header");
        let name = canaries.at(format!("{}: a header's name", self.name));
        request.headers.push((name, canaries.at(format!("{}: an unknown header", self.name))));
        all.push(request);
    }

    fn with_body(&self, canaries: &mut Canaries, all: &mut Vec<Request>) {
        let content = &self.value["requestBody"]["content"];
        if content["multipart/form-data"].is_object() {
            return self.with_form(canaries, all);
        }
        let schema = self.resolve(&content["application/json"]["schema"]);
        let mut at = |place: &str| canaries.at(format!("{}: {place}", self.name));
        let fields: Vec<String> =
            schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect();
        let is_list = schema["type"] == "array";
        let mut json = |what: String, mut body: Value| {
            if is_list {
                body = json!([body]);
            }
            all.push(self.with_json(what, body.to_string().into_bytes()));
        };
        let item = if is_list { self.resolve(&schema["items"]) } else { schema };
        let item_fields: Vec<String> =
            item["properties"].as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect();
        let fields = if is_list { item_fields } else { fields };
        let base = |at: &mut dyn FnMut(&str) -> String| {
            let good = fields.iter().filter_map(|field| Some((field.clone(), good(field, &at(field))?)));
            Value::Object(good.collect::<Map<_, _>>())
        };
        json("a good body".to_owned(), base(&mut at));
        for field in &fields {
            for wrong in [json!(at(field)), json!({ at(field): [at(field)] }), json!([at(field)])] {
                let mut body = base(&mut at);
                body[field] = wrong;
                json(format!("field {field}"), body);
            }
        }
        let mut body = base(&mut at);
        body[at("a field's name")] = json!(at("an unknown field"));
        json("an unknown field".to_owned(), body);
        json("a text".to_owned(), json!(at("a text for a body")));
        let mut large = base(&mut at);
        large["padding"] = json!(at("an oversize body").repeat(OVERSIZE / 16));
        json("an oversize body".to_owned(), large);
        let broken = format!("{{\"{}\": \"{}", at("broken JSON"), at("broken JSON"));
        all.push(self.with_json("broken JSON".to_owned(), broken.into_bytes()));
        let mut request =
            self.with_json("another type".to_owned(), at("a body of another type").into_bytes());
        request.headers[0].1 = format!("text/{}", at("content type"));
        all.push(request);
    }

    fn with_json(&self, what: String, body: Vec<u8>) -> Request {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Request { headers, body, ..self.request(self.path(None), what) }
    }

    /// A form, whole and cut, with canaries for names, file names and what is in them.
    fn with_form(&self, canaries: &mut Canaries, all: &mut Vec<Request>) {
        let mut at = |place: &str| canaries.at(format!("{}: {place}", self.name));
        for unknown in [false, true] {
            let name = if unknown { at("a part's name") } else { "path".to_owned() };
            let part = |head: String, text: String| {
                format!("--b\r\ncontent-disposition: form-data; {head}\r\n\r\n{text}\r\n")
            };
            let form = part(format!("name=\"{name}\""), at("a part"))
                + &part(format!("name=\"file\"; filename=\"{}\"", at("a file's name")), at("a file"));
            for end in ["--b--\r\n", ""] {
                let mut request = self.request(self.path(None), format!("a form that ends with {end:?}"));
                request
                    .headers
                    .push(("content-type".to_owned(), "multipart/form-data; boundary=b".to_owned()));
                request.body = (form.clone() + end).into_bytes();
                all.push(request);
            }
        }
        let mut request = self.request(self.path(None), "a form with another boundary");
        let boundary = at("a boundary");
        request
            .headers
            .push(("content-type".to_owned(), format!("multipart/form-data; boundary={boundary}")));
        request.body = format!("--b\r\n{}", at("a form that is none")).into_bytes();
        all.push(request);
    }

    /// The schema itself where this is a reference to one.
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/")) {
            Some(name) => &self.document["components"]["schemas"][name],
            None => schema,
        }
    }
}
