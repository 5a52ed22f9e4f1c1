// Package platform is the HTTP client of the Tuzhan platform: it makes requests of records, sends them with a token, and reads
// the answers. Client implements connector.Platform.
//
// # How an answer is read
//
// The HTTP status decides where this table names it, then the code in the body. The third column is Answer.NotApplied: whether
// the answer proves that nothing of the request was applied.
//
//	answer                                            verdict        not applied
//	2xx, code 200; point: data true;                  Delivered      -
//	    group: data.status 1 or 0
//	2xx, code 200, group status 2, every item of      Partly         -
//	    errorData found among the records
//	the same, errorData empty or not found            Rejected       no: some were
//	401; 2xx or another 4xx with code 100200          TokenRefused   yes (after a fresh token and a second try)
//	403, 404, 407, 3xx; 2xx or another 4xx with       SetupWrong     yes
//	    code 100100 or 100300
//	429; 503 with a Retry-After that can be read      SlowDown       yes
//	413                                               TooBig         yes
//	any other 4xx but 408; 2xx with any other code;   Rejected       yes
//	    point: data false or absent;
//	    group: status -1 or unknown
//	408, 5xx, code 5xx (three digits)                 Outage         no
//	2xx that is no JSON object with a code, cut or    Outage         no
//	    too long; point: data that is no boolean
//	cut or time-out after the first byte had left     Outage         no
//	cut, time-out or refusal before it: name not      Outage         yes
//	    found, connection refused, TLS handshake
//	    failed, rate limit not waited for
//	no token to be had                                see below      yes
//
// "Another 4xx" is one that no line names by number, and 403 and 404: a gateway that turns code 100200 into a 403 still gets its
// fresh token.
//
// The token call (GET, with app id and secret) is read by the same table, but never blames a record: what would be TokenRefused,
// TooBig or Rejected there is SetupWrong.
//
// # What may be sent twice
//
// Nothing, by this package, once a byte of it has left. Every connection counts the plain bytes written to it; where a request
// failed and its connection took none of them, the connection is sealed, so that none can follow, and the failure is proven
// harmless. Only then, and only if the connection was an old one that the server had closed, the request goes out again on
// another one. net/http itself repeats a POST only when it can rewind the body (Request.GetBody) and has written nothing, or
// when it carries an Idempotency-Key (transport.go, shouldRetryRequest); ours has neither. Only HTTP/1.1 is spoken: with HTTP/2
// one connection carries many requests, and its bytes prove nothing about one of them.
//
// The body goes out with the head: no leave is asked for (Expect: 100-continue), and interim answers are passed over. Proxies of the
// environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) are honoured: to https through a tunnel, in which the bytes of TLS count too, so that a
// failure there is rather called uncertain than harmless; to http as a proxy that answers in the platform's place, by the same table.
//
// # Encryption, and the open API
//
// Where Config.Encryption is set, points carry only {"encryptStr": ...}. With Config.OpenPoints they carry nonce and timestamp, which are made for
// each request. Dead letters keep the payload without either.
//
// # What never shows
//
// Errors and logs hold no URL query (the token call has the app secret in it), no token, no payload, and nothing that the platform
// wrote but its code. Its msg goes into Answer.Msg alone.
package platform
