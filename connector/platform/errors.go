package platform

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Error is what went wrong with a request, in words for a DBA. It never holds a URL query, a token, a payload or the platform's msg.
type Error struct {
	// Op is what was tried: a request, as method and URL without query, or a setting.
	Op string
	// Reason is what happened.
	Reason string
	// Cure is what to look at next; may be empty.
	Cure string
	// Code is the platform's business code, where the token call answered with one.
	Code string

	verdict    connector.Verdict // of the token call
	retryAfter time.Duration
	cause      error
}

// Passing reports whether the platform, or the way to it, was away: waiting may cure that.
func (e *Error) Passing() bool {
	return e.verdict == connector.Outage || e.verdict == connector.SlowDown
}

// Error joins Op, Reason and Cure.
func (e *Error) Error() string {
	if e.Cure == "" {
		return e.Op + ": " + e.Reason
	}
	return e.Op + ": " + e.Reason + ". " + e.Cure
}

// Told gives Op and Reason, and apart from them Cure.
func (e *Error) Told() (what, cure string) { return e.Op + ": " + e.Reason, e.Cure }

// Unwrap gives the end of the context or the network's error, where that was the cause.
func (e *Error) Unwrap() error { return e.cause }

func newError(op, reason, cure string, cause error) *Error {
	return &Error{Op: op, Reason: reason, Cure: cure, cause: cause}
}

// errTimeout is the cause of a context that Config.Timeout has ended.
type errTimeout time.Duration

func (t errTimeout) Error() string     { return "platform.timeout of " + time.Duration(t).String() }
func (t errTimeout) Timeout() bool     { return true }
func (t errTimeout) Is(err error) bool { return err == context.DeadlineExceeded }

// failed is the answer where none came, or none that can be read.
func failed(err error, notApplied bool) connector.Answer {
	return connector.Answer{Verdict: connector.Outage, NotApplied: notApplied, Err: err}
}

// transportError words a failure of net/http. Only texts known to be harmless are taken over: others quote URLs, the settings of a
// proxy with its password, or what the other side has written.
func transportError(ctx context.Context, to *target, err error, connected bool) *Error {
	const away = "The platform, or a gateway in front of it, is overloaded or away."
	where := "Check platform.baseURL and " + to.setting + ", and the way there (firewall, HTTPS_PROXY)."
	e := &Error{Op: to.post, verdict: connector.Outage}
	var (
		own   errTimeout
		dns   *net.DNSError
		op    *net.OpError
		errno syscall.Errno
		timed net.Error
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Reason, e.cause = "cancelled", context.Canceled
	case errors.As(err, &own):
		e.Reason, e.Cure, e.cause = "no answer within the "+own.Error(), away, own
		if !connected {
			e.Reason, e.Cure = "no connection within the "+own.Error(), where
		}
	case errors.As(err, &dns):
		e.Reason, e.cause = fmt.Sprintf("host %s: %s", dns.Name, dns.Err), dns
		e.Cure = "Check the host in platform.baseURL and " + to.setting + ", and this machine's name servers."
	case tlsError(e, err):
	case errors.As(err, &op) && op.Op == "proxyconnect" && !errors.As(op.Err, &errno):
		e.Reason, e.Cure = "the proxy refuses", "Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
	case errors.As(err, &op) && op.Op == "dial" && errors.As(err, &errno):
		e.Reason, e.Cure, e.cause = fmt.Sprintf("dial %s: %s", op.Addr, errno), where, errno
	case errors.As(err, &timed) && timed.Timeout():
		e.Reason, e.Cure, e.cause = "no answer in time", away, context.DeadlineExceeded
		if !connected {
			e.Reason, e.Cure = "no connection in time", where
		}
	case errors.As(err, &errno):
		e.Reason, e.Cure, e.cause = "the connection was cut: "+errno.Error(), away, errno
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Reason, e.Cure, e.cause = "the connection was cut before the answer was complete", away, io.ErrUnexpectedEOF
		if !connected {
			e.Reason, e.Cure = "the connection was cut while it was made", where
		}
	case !connected:
		e.Reason, e.Cure = "no connection", where
	default:
		e.Reason, e.Cure = "the connection broke, or the answer is no HTTP/1.1", where
	}
	return e
}

// tlsError words a failed TLS handshake into e; false where err is none.
func tlsError(e *Error, err error) bool {
	var (
		record  tls.RecordHeaderError
		cert    *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &record):
		e.Reason, e.Cure = "the server does not speak TLS", "Check whether the URL should begin with http://."
	case errors.As(err, &cert):
		e.Reason, e.cause = "the server's certificate is not trusted: "+cert.Err.Error(), cert
		e.Cure = "Check the host in the URL and this machine's clock."
		if errors.As(err, &unknown) {
			e.Cure = "Where the platform has a certificate authority of its own, name its certificate in SSL_CERT_FILE."
		}
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		e.Reason, e.cause = "TLS: "+op.Err.Error(), op // an alert: its text is fixed
		e.Cure = "Check that the server takes TLS 1.2 or newer, and the host in the URL."
	default:
		return false
	}
	return true
}
