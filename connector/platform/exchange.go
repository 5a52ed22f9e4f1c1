package platform

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// maxAnswer is how much of an answer is read, beside twice the size of the request (errorData may give it all back).
const maxAnswer = 1 << 20

// maxStale is how often a request moves on to another connection because the server had closed the one it was given.
const maxStale = 3

// response is an answer with its body read.
type response struct {
	to     *target
	status int
	header http.Header
	body   []byte
	// err is why the body could not be read to its end.
	err *Error
}

// post sends data and reads the answer. Where none came it gives the verdict instead.
func (c *Client) post(ctx context.Context, to *target, token string, data *encoded) (*response, *connector.Answer) {
	header := http.Header{
		"Content-Type": {"application/json"},
		"User-Agent":   {c.userAgent},
		"X-Token":      {token},
	}
	for try := 0; ; try++ {
		// No GetBody, so that net/http repeats nothing.
		req := &http.Request{Method: http.MethodPost, URL: to.url, Host: to.url.Host, Header: header,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(data.bytes)), Body: data.body()}
		var j journey
		r, err := c.exchange(ctx, req, to, &j, 2*len(data.bytes))
		if err == nil {
			return r, nil
		}
		nothing := j.end()
		if nothing && j.reused && try < maxStale && ctx.Err() == nil {
			continue
		}
		a := failed(err, nothing)
		return nil, &a
	}
}

// exchange makes one round trip, by the transport itself: http.Client would follow redirects and quote URLs in its errors. It reads
// maxAnswer and more bytes of the answer. The error means that no answer came.
func (c *Client) exchange(ctx context.Context, req *http.Request, to *target, j *journey, more int) (*response, error) {
	resp, err := c.transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, j.trace())))
	if err != nil {
		return nil, transportError(ctx, to, err, j.connected())
	}
	defer resp.Body.Close()
	limit := maxAnswer + more
	r := &response{to: to, status: resp.StatusCode, header: resp.Header}
	// Read to the end, else the connection can't be used again.
	r.body, err = io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	switch {
	case err != nil:
		r.err = transportError(ctx, to, err, true)
	case len(r.body) > limit:
		r.err = newError(to.post, fmt.Sprintf("the answer is longer than %d bytes", limit), "", nil)
	}
	return r, nil
}
