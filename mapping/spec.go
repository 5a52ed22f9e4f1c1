package mapping

import "slices"

// This file is the platform's API as far as payloads go, in one table that both the check of the file and the encoding follow. The names and types
// are the platform's, from its pages "外部积分-增加", "事件导入" and "客群关系导入"; what those leave open is left open here.

// fieldType is the JSON type that the API wants, and how a value gets there.
type fieldType uint8

const (
	// stringField is text; whatever has a text form is taken.
	stringField fieldType = iota
	// intField is a whole number of 64 bits.
	intField
	// pointField is the intField whose sign says where the record goes.
	pointField
	boolField
	// timeField is unix milliseconds.
	timeField
	// uuidField is text that has a default.
	uuidField
	// objectField is an object of the given fields.
	objectField
	// listField is a list of objects of the given fields.
	listField
	// argsField is an object of any names whose values are argField.
	argsField
	// argField is text or a number.
	argField
	// jsonStringField is text that holds a JSON object, of the given fields where it is written as a mapping.
	jsonStringField
	// jsonField is any JSON value, inside of a jsonStringField.
	jsonField
	// groupsField is group names joined by commas.
	groupsField
)

// String names the type in problems.
func (t fieldType) String() string {
	switch t {
	case intField, pointField:
		return "a whole number"
	case boolField:
		return "true or false"
	case timeField:
		return "a timestamp, or a whole number of milliseconds"
	case objectField, argsField:
		return "a mapping (key: value)"
	case listField:
		return "a list (- item)"
	case argField:
		return "text or a number"
	case jsonStringField:
		return "a mapping, or text that holds a JSON object"
	case groupsField:
		return "group names"
	case jsonField:
		return "a value"
	}
	return "text"
}

// field is one field of the API.
type field struct {
	name     string
	typ      fieldType
	required bool
	// enum and least, most are what a stringField and an intField may hold; empty: anything.
	enum        []string
	least, most int64
	// maxChars bounds a text; 0: nothing is known.
	maxChars int
	// customer says that the field names the customer: its value is an order key, and an object in which all of these are empty names
	// nobody.
	customer bool
	// needs names the field that must come with this one.
	needs string
	// refused says why the field must not be sent although the API's page shows it.
	refused string
	// doc says what it means, where the name does not.
	doc    string
	fields []field
}

const (
	docAudience     = "the customer by the number of the customer file"
	docPoint        = "how many points; a negative number goes to `platform.paths.pointDecrease`"
	docRemark       = "what the points are for"
	docMatching     = "match against the customers that are known"
	docMatchingType = "`1` exact, `2` fuzzy"
)

func identityTypes() []string { return []string{"phone", "id", "openid", "unionid"} }

// pointFields are the body of 外部积分-增加, or of the open API's sibling.
func pointFields(open bool) []field {
	if open {
		return openPointFields()
	}
	return append(increaseFields(),
		field{name: "thirdId", refused: "thirdId is a field of the open API: set platform.pointAPI: open, or name the customer by phoneList, openids or audienceUserId"},
		field{name: "relateBizCode", refused: "relateBizCode is a field of the open API: set platform.pointAPI: open, which makes it"})
}

// openPointFields are the body of /api/open/point/increase.
func openPointFields() []field {
	fields := []field{
		{name: "audienceUserId", typ: intField, customer: true, doc: docAudience},
		{name: "thirdId", customer: true, doc: "the customer by your own id (`platform.pointAPI: open` only)"},
		{name: "point", typ: pointField, required: true, doc: docPoint},
		{name: "remark", required: true, doc: docRemark},
		{name: "eventType"},
		{name: "relateBizCode", refused: "relateBizCode is made by the connector, as an event's uuid is: the same whenever this point is sent"},
		{name: "nonce", refused: "nonce is made by the connector for each request"},
		{name: "timestamp", refused: "timestamp is made by the connector for each request"},
	}
	for _, f := range increaseFields() {
		if !slices.ContainsFunc(fields, func(x field) bool { return x.name == f.name }) {
			fields = append(fields, field{name: f.name, refused: "the open API (platform.pointAPI: open) has no " + f.name +
				" in a point: its fields are audienceUserId, thirdId, point, remark, eventType"})
		}
	}
	return fields
}

func increaseFields() []field {
	return []field{
		{name: "openids", typ: listField, customer: true, doc: "the customer by openid or unionid", fields: []field{
			{name: "openid", customer: true}, {name: "unionid", customer: true},
			{name: "fromTo", enum: []string{"contentminiapp", "workwechat", "gzh", "workwechatgroup"}, doc: "where the openid is from"},
			{name: "appid"}, {name: "jcappid", typ: intField},
			{name: "identityId", customer: true}, {name: "identityType", enum: identityTypes()},
		}},
		{name: "phoneList", typ: listField, customer: true, doc: "the customer by phone", fields: []field{
			{name: "phone", required: true, customer: true}, {name: "isVerify", enum: []string{"0", "1"}, doc: "`\"1\"`: the phone is verified"},
		}},
		{name: "audienceUserId", typ: intField, customer: true, doc: docAudience},
		{name: "point", typ: pointField, required: true, doc: docPoint},
		{name: "remark", required: true, doc: docRemark},
		{name: "eventType"}, {name: "avatar"}, {name: "nickName"}, {name: "contentId"}, {name: "contentName"},
		{name: "ext", typ: jsonStringField, doc: "sent as the JSON string that the API wants", fields: []field{
			{name: "componentId", typ: jsonField}, {name: "strategyId", typ: jsonField}, {name: "strategyName", typ: jsonField},
			{name: "actionVo", typ: jsonField}, {name: "action", typ: jsonField},
		}},
		{name: "appInstanceId", typ: intField}, {name: "orgId"},
	}
}

// eventParams are publicParams of the event import; all of them may be absent.
func eventParams() []field {
	return []field{{name: "isMatching", typ: boolField, doc: docMatching}, {name: "matchingType", typ: intField, least: 1, most: 2, doc: docMatchingType}}
}

// eventFields are one event. identityType and platform are open: the page's lists of them end with "...".
func eventFields() []field {
	return []field{
		{name: "identities", typ: listField, required: true, customer: true, doc: "who the customer is; entries whose value is null are left out", fields: []field{
			{name: "identityValue", required: true, customer: true}, {name: "identityType", required: true, doc: "`phone`, `openid`, `unionid`, ..."},
			{name: "platform", doc: "`gzh`, `workwechat`, ..."}, {name: "mpid", needs: "isWeChatEcosystem", doc: "the app; with `isWeChatEcosystem`"}, {name: "isWeChatEcosystem", typ: boolField},
			{name: "appid", refused: "the API's page has struck appid out: name the app with mpid and isWeChatEcosystem"},
		}},
		{name: "time", typ: timeField, doc: "when it happened; left away: the commit time"},
		{name: "uuid", typ: uuidField, maxChars: 36, doc: "left away: one that is the same whenever the event is sent again"},
		{name: "eventKey", required: true, doc: "the custom event, as it is defined on the platform"},
		{name: "intid", doc: "id of the scene interaction"},
		{name: "eventargs", typ: argsField, doc: "the event's arguments by name: text and numbers"},
	}
}

// groupParams are publicParams of the group relation import, without optType, which a mapping gives beside them.
func groupParams() []field {
	return []field{
		{name: "isMatching", typ: boolField, required: true, doc: docMatching},
		{name: "matchingType", typ: intField, least: 1, most: 2, doc: docMatchingType},
		{name: "identifyWay", typ: intField, least: 1, most: 2, doc: "with fuzzy matching: `1` unionid, openid, phone, customer id in this order; `2` customer id, phone, openid, unionid"},
		{name: "accurateMatchType", enum: []string{"gzh", "workwechat", "YOUZAN", "EZR", "contentminiapp", "contenthome"}, doc: "with exact matching: the channel"},
		{name: "accurateMatchValue", doc: "with exact matching: the app id"},
		{name: "optType", refused: "optType stands beside publicParams, not inside: one value, a mapping {insert: add, ...} or an expression"},
	}
}

// groupFields are one group relation.
func groupFields() []field {
	return []field{
		{name: "identityType", enum: []string{"phone", "thirdId", "openid", "unionid"}, doc: "with exact matching: the field to match by"},
		{name: "thirdId", customer: true, doc: "the customer by your own id"}, {name: "openid", customer: true}, {name: "unionid", customer: true}, {name: "phone", customer: true},
		{name: "groups", typ: groupsField, doc: "the names of the groups; a list joins with commas"},
	}
}

func optTypes() []string { return []string{"add", "update", "delete"} }

func names(fields []field) []string {
	list := make([]string, 0, len(fields))
	for _, f := range fields {
		if f.refused == "" {
			list = append(list, f.name)
		}
	}
	return list
}

// customerNames lists the fields that name the customer.
func customerNames(fields []field) []string {
	var list []string
	for _, f := range fields {
		if f.customer {
			list = append(list, f.name)
		}
	}
	return list
}
