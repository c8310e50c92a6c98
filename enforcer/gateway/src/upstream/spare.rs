//! The head of a request, kept in case it has to be sent again.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::body::RequestBody;

/// What of it is sent. Extensions belong to the connection and are left out.
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    /// No map yet: hardly any request is sent again, and a list costs less to make.
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Spare {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let mut fields = Vec::with_capacity(headers.len());
        fields.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            fields,
        }
    }

    /// The request once more, with `body`.
    pub(super) fn with(self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        let mut headers = HeaderMap::with_capacity(self.fields.len());
        for (name, value) in self.fields {
            headers.append(name, value);
        }
        *request.headers_mut() = headers;
        request
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_same_is_sent_again() {
        let mut request = Request::builder()
            .method("PROPFIND")
            .uri("/a?b=c")
            .version(Version::HTTP_2)
            .extension(7_u8)
            .body(())
            .unwrap();
        for (name, value) in [
            ("x-b", "1"),
            ("accept", "text/html"),
            ("x-a", "2"),
            ("x-b", "3"),
            ("cookie", "c"),
            ("x-b", ""),
        ] {
            request
                .headers_mut()
                .append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let again = Spare::of(&request).with(RequestBody::kept(Bytes::new()));
        assert_eq!(again.method(), request.method());
        assert_eq!(again.uri(), request.uri());
        assert_eq!(again.version(), request.version());
        assert!(again.extensions().is_empty());
        let (again, before) = (again.headers().iter(), request.headers().iter());
        assert!(again.eq(before), "in the same order");
    }
}
