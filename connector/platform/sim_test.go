package platform

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// newSim starts a simulator and a client with app id and secret.
func newSim(t *testing.T, o platformsim.Options) (*platformsim.Sim, *Client) {
	o.AppID, o.AppSecret = "app-1", testSecret
	sim := platformsim.New(o)
	base := serve(t, sim.ServeHTTP)
	return sim, newClient(t, base, withApp, func(cfg *Config) {
		cfg.Paths.Point = platformsim.DefaultPaths()[platformsim.Point]
		cfg.Paths.PointDecrease = platformsim.DefaultPaths()[platformsim.PointDecrease]
	})
}

func simEvents(n int) *connector.Request {
	req := &connector.Request{Endpoint: connector.EventEndpoint, Envelope: `{"isMatching":true,"matchingType":1}`}
	for i := range n {
		req.Records = append(req.Records, &connector.Record{Kind: connector.Event, Payload: fmt.Appendf(nil,
			`{"identities":[{"identityType":"phone","identityValue":"138%08d"}],"eventKey":"c_buy","time":1777600000000,"eventargs":{"c_price":1420.00}}`, i)})
	}
	return req
}

func simGroups(n int) *connector.Request {
	req := &connector.Request{Endpoint: connector.GroupRelationEndpoint, Envelope: `{"isMatching":true,"matchingType":2,"identifyWay":1,"optType":"add"}`}
	for i := range n {
		req.Records = append(req.Records, &connector.Record{Kind: connector.GroupRelation, Payload: fmt.Appendf(nil, `{"phone":"138%08d","groups":"VIP"}`, i)})
	}
	return req
}

// The simulator, written from the same pages by other hands, takes what the client sends.
func TestSimulatorTakesAll(t *testing.T) {
	for _, o := range []platformsim.Options{{}, {NumericCodes: true, HideExpire: true}} {
		sim, c := newSim(t, o)
		decrease := pointRequest()
		decrease.Endpoint = connector.PointDecreaseEndpoint
		for _, req := range []*connector.Request{pointRequest(), decrease, simEvents(500), simGroups(500)} {
			if a := c.Send(t.Context(), req); a.Verdict != connector.Delivered {
				t.Errorf("%v: %v %s %s %v", req.Endpoint, a.Verdict, a.Code, a.Msg, a.Err)
			}
			if n := sim.Count(platformsim.Endpoint(req.Endpoint.String())); n != len(req.Records) {
				t.Errorf("%v: %d records applied, want %d", req.Endpoint, n, len(req.Records))
			}
		}
		if a := c.Send(t.Context(), simEvents(501)); a.Verdict != connector.Rejected || !a.NotApplied {
			t.Errorf("501 events: %v", a.Verdict)
		}
		before := sim.Count("")
		for e := connector.PointEndpoint; e <= connector.GroupRelationEndpoint; e++ {
			if a := c.Probe(t.Context(), e); a.Verdict != connector.Delivered || sim.Count("") != before {
				t.Errorf("probe of %v: %v, %d records applied", e, a.Verdict, sim.Count("")-before)
			}
		}
		if n := sim.Stats().TokensIssued; n != 1 {
			t.Errorf("%d token calls, want 1", n)
		}
	}
}

// Whatever happens to a point, Send never calls applied what was not, nor the other way round.
func TestSimulatorFaults(t *testing.T) {
	for _, tc := range []struct {
		fault      platformsim.Fault
		want       connector.Verdict
		notApplied bool
		applied    int
	}{
		{platformsim.Fault{Action: platformsim.ApplyThenCut}, connector.Outage, false, 1},
		{platformsim.Fault{Action: platformsim.CutBeforeApply}, connector.Outage, false, 0},
		{platformsim.Fault{Action: platformsim.CutAnswer}, connector.Outage, false, 1},
		{platformsim.Fault{Action: platformsim.AnswerHTML, Apply: true}, connector.Outage, false, 1},
		{platformsim.Fault{Action: platformsim.AnswerEmpty}, connector.Outage, false, 0},
		{platformsim.Fault{Action: platformsim.AnswerStatus, Status: 502, Apply: true}, connector.Outage, false, 1},
		{platformsim.Fault{Action: platformsim.AnswerStatus, Status: 503, RetryAfter: "2"}, connector.SlowDown, true, 0},
		{platformsim.Fault{Action: platformsim.AnswerStatus, Status: 404}, connector.SetupWrong, true, 0},
		{platformsim.Fault{Action: platformsim.AnswerRedirect}, connector.SetupWrong, true, 0},
		{platformsim.Fault{Action: platformsim.AnswerTooLarge}, connector.TooBig, true, 0},
		{platformsim.Fault{Action: platformsim.AnswerDataFalse}, connector.Rejected, true, 0},
		{platformsim.Fault{Action: platformsim.AnswerCode, Code: "30001"}, connector.Rejected, true, 0},
		{platformsim.Fault{Action: platformsim.AnswerCode, Code: "500"}, connector.Outage, false, 0},
		{platformsim.Fault{Action: platformsim.AnswerCode, Code: "100100"}, connector.SetupWrong, true, 0},
		{platformsim.Fault{Action: platformsim.AnswerCode, Code: "100200"}, connector.Delivered, false, 1}, // once, so the second try is taken
		{platformsim.Fault{Action: platformsim.AnswerCode, Code: "100200", Count: 2}, connector.TokenRefused, true, 0},
		{platformsim.Fault{Action: platformsim.ExpireThenPass}, connector.Delivered, false, 1},
	} {
		t.Run(fmt.Sprint(tc.fault.Action, tc.fault.Status, tc.fault.Code), func(t *testing.T) {
			sim, c := newSim(t, platformsim.Options{})
			tc.fault.Endpoint = platformsim.Point
			if _, err := sim.Inject(tc.fault); err != nil {
				t.Fatal(err)
			}
			a := c.Send(t.Context(), pointRequest())
			if n := sim.Count(platformsim.Point); a.Verdict != tc.want || a.NotApplied != tc.notApplied || n != tc.applied {
				t.Errorf("got %v, not applied %v, %d applied; want %v, %v, %d (%v)", a.Verdict, a.NotApplied, n, tc.want, tc.notApplied, tc.applied, a.Err)
			}
			wantClean(t, a.Err)
			if v := sim.Violations(); len(v) != 0 {
				t.Errorf("violations: %v", v)
			}
		})
	}
}

func TestSimulatorPartly(t *testing.T) {
	sim, c := newSim(t, platformsim.Options{})
	if _, err := sim.Inject(platformsim.Fault{Action: platformsim.PartlyFail, Items: []string{"13800000003", "13800000017"}}); err != nil {
		t.Fatal(err)
	}
	a := c.Send(t.Context(), simGroups(20))
	if a.Verdict != connector.Partly || !slices.Equal(a.Failed, []int{3, 17}) || sim.Count("") != 18 {
		t.Errorf("got %v %v, %d applied", a.Verdict, a.Failed, sim.Count(""))
	}
}

func TestSimulatorWrongSecret(t *testing.T) {
	sim, c := newSim(t, platformsim.Options{Stale401: true})
	c.calls.secret = static("wrong")
	a := c.Send(t.Context(), simEvents(1))
	if a.Verdict != connector.SetupWrong || a.Code != "100100" || !a.NotApplied {
		t.Errorf("got %v, code %q", a.Verdict, a.Code)
	}
	c.calls.secret = static(testSecret)
	if a := c.Send(t.Context(), simEvents(1)); a.Verdict != connector.Delivered {
		t.Errorf("then right: %v, %v", a.Verdict, a.Err)
	}
	sim.ExpireTokens()
	if a := c.Send(t.Context(), simEvents(1)); a.Verdict != connector.Delivered {
		t.Errorf("after a 401: %v, %v", a.Verdict, a.Err)
	}
}
