package config

import (
	"errors"
	"io/fs"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// checkDSN says what is wrong with a DSN, in words of its own: those of the parser may quote a part of the password.
func checkDSN(dsn string) (text, hint string) {
	const want = "Want postgres://user:password@host:5432/database, or host=... user=... dbname=..."
	isURL := strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
	if !isURL && !strings.Contains(dsn, "=") {
		return "this is no PostgreSQL connection string", want
	}
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return "PostgreSQL's connection string can't be read" + dsnReason(err), want +
			"\nIn a URL, characters like @ : / ? # % of a password must be percent-encoded (@ is %40); or leave it out and set PGPASSWORD."
	}
	authority, _, _ := strings.Cut(dsn, "?")
	if isURL && strings.Count(authority, "@") > 1 || strings.Contains(c.Host+c.Database, "@") {
		return "a password with an @ in it must be percent-encoded (%40): where the host begins can't be told", ""
	}
	if c.Database == "" {
		return "it names no database", want
	}
	return "", ""
}

// dsnReason adds what is surely no part of the string.
func dsnReason(err error) string {
	var file *fs.PathError
	if errors.As(err, &file) {
		return ": " + file.Error()
	}
	for _, known := range []string{"invalid port", "sslmode is invalid", "invalid percent-encoded", "failed to configure TLS"} {
		if strings.Contains(err.Error(), known) {
			return ": " + known
		}
	}
	return ""
}

// checkURL reads a URL of the platform. What it says of a wrong one quotes nothing: a query or user may hold a secret.
func checkURL(s string) (u *url.URL, text string) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, "this is no URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, "want http:// or https:// in front"
	case u.Hostname() == "":
		return nil, "the host is missing"
	case u.User != nil:
		return nil, "want no user or password in it: the platform takes a token"
	case u.Fragment != "":
		return nil, "want nothing behind a #"
	}
	return u, ""
}

func (l *loader) baseURL(n strict.Node) string {
	s, ok := n.Text()
	if !ok {
		return ""
	}
	u, text := checkURL(s)
	if text == "" && (u.RawQuery != "" || u.ForceQuery) {
		text = "want nothing behind a ?"
	}
	if text != "" {
		l.ps.AddHint(n, "For example https://integrate.rabbitpre.com.", "baseURL: %s", text)
		return ""
	}
	return strings.TrimRight(s, "/")
}

// address reads a path below baseURL, or a whole URL.
func (l *loader) address(target *Address) value {
	return value{Shape: strict.Shape{Type: strict.TextType, What: "path or URL"}, read: func(n strict.Node) {
		s, ok := n.Text()
		if !ok {
			return
		}
		whole := s
		if strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") {
			whole = "https://host" + s
		}
		text := "want a path that begins with / or a whole URL"
		if whole != s || strings.Contains(s, "://") {
			_, text = checkURL(whole)
		}
		if text != "" {
			n.Problem("%s: %s", n.Key(), text)
			return
		}
		*target = Address(s)
	}}
}
