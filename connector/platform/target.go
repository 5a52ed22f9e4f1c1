package platform

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// The platform's own paths.
const (
	eventPath         = "/api/integrate/event/v2/batchAdd"
	groupRelationPath = "/api/integrate/audience/group/rel/batchAdd"
	openPointPath     = "/api/open/point/increase"
	tokenPath         = "/api/open/app/getOrgAccessToken"
)

// DefaultPaths are the platform's own: what counts where Paths leaves one empty. Of points there is none, but for the open API's, which Config.OpenPoints picks.
func DefaultPaths() Paths {
	return Paths{Event: eventPath, GroupRelation: groupRelationPath, Token: tokenPath}
}

// target is an address of the platform.
type target struct {
	url *url.URL
	// post names the request in errors: method, and URL without query.
	post string
	// setting is the key that a wrong address is mended by.
	setting string
}

// targets reads the addresses; endpoints without one are missing from the map. The error names every wrong setting.
func targets(base string, paths Paths) (map[connector.Endpoint]*target, *target, error) {
	b, err := parseURL(base)
	if err == nil && b.RawQuery != "" {
		err = errors.New("want no query")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("platform.baseURL: %w; for example https://integrate.rabbitpre.com", err)
	}
	var errs []error
	find := func(method, key, path, standard string) *target {
		if path == "" {
			path = standard
		}
		if path == "" {
			return nil
		}
		setting := "platform.paths." + key
		if !strings.Contains(path, "://") {
			path = strings.TrimRight(base, "/") + "/" + strings.TrimLeft(path, "/")
		}
		u, err := parseURL(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w; want a path like %s, or a whole URL", setting, err, eventPath))
			return nil
		}
		return &target{url: u, post: method + " " + shown(u), setting: setting}
	}
	endpoints := map[connector.Endpoint]*target{}
	for e, p := range map[connector.Endpoint][2]string{
		connector.PointEndpoint:         {paths.Point},
		connector.PointDecreaseEndpoint: {paths.PointDecrease},
		connector.EventEndpoint:         {paths.Event, eventPath},
		connector.GroupRelationEndpoint: {paths.GroupRelation, groupRelationPath},
	} {
		if t := find("POST", e.String(), p[0], p[1]); t != nil {
			endpoints[e] = t
		}
	}
	token := find("GET", "token", paths.Token, tokenPath)
	return endpoints, token, errors.Join(errs...)
}

// parseURL reads an http or https URL. Its errors don't quote the URL: a query may hold a secret.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("want http:// or https:// in front")
	case u.Hostname() == "":
		return nil, errors.New("the host is missing")
	case u.User != nil:
		return nil, errors.New("want no user or password in the URL")
	case u.Fragment != "":
		return nil, errors.New("want no # in the URL")
	}
	return u, nil
}

// shown is u without what may be secret.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// target finds an endpoint's address.
func (c *Client) target(e connector.Endpoint) (*target, error) {
	if t := c.endpoints[e]; t != nil {
		return t, nil
	}
	setting := "platform.paths." + e.String()
	return nil, newError(setting, "is not set, and the platform has no path of its own for it",
		"Set "+setting+" to the path that the self-built app was given.", nil)
}
