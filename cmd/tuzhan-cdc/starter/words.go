package starter

import (
	"slices"
	"strings"
	"unicode"
)

// lexicon is a list of words by which a name is recognised: those in Latin letters as a whole word of the name (also as a plural), Chinese ones anywhere in it.
type lexicon []string

func words(text string) lexicon { return strings.Fields(text) }

// The words by which CRMs name their columns and tables: English, Chinese, and the pinyin and abbreviations that are usual.
var (
	phoneWords    = words("phone mobile tel telephone cell cellphone mobilephone phoneno phonenum phonenumber mobileno mobilenum telno sjh sjhm shouji lxdh 手机 电话 联系方式")
	notPhone      = words("verified verify valid model brand type country area prefix code ext os hash md5 sha1 sha256 encrypt encrypted cipher mask masked bind status flag is has fax count times at time 型号 品牌 归属 验证 是否 密文 加密 脱敏 区号 传真 类型")
	strangerWords = words("store shop staff employee sales salesman salesperson seller clerk advisor adviser consultant teacher tutor coach company supplier vendor merchant courier driver office manager admin operator referrer inviter introducer emergency service creator owner 门店 店铺 店员 导购 员工 销售员 顾问 老师 教师 教练 公司 供应商 商户 快递 司机 客服 经理 管理员 推荐人 邀请人 介绍人 紧急 负责人 校区 操作人 创建人")
	receiverWords = words("receiver recipient consignee contact shipping delivery 收货 收件 联系人")
	emailWords    = words("email mail 邮箱 邮件")

	moneyWords  = words("amount amt money total price fee 金额 总价 价格 费用 实付 实收 应付")
	notMoney    = words("id balance discount refund freight shipping tax cost unit coupon original point integral status type count num 余额 优惠 折扣 运费 税 成本 单价 原价 退款 抵扣 积分 状态 类型 数量")
	paidWords   = words("paid pay payment actual real 实付 实收 支付 付款")
	totalWords  = words("total order amount 总 订单 金额")
	centWords   = words("cent fen")
	pointWords  = words("point points integral jifen 积分")
	notPoints   = words("id rule type level ratio rate expire expired code name status reason remark at time date 规则 类型 有效期 状态 原因 备注 比例 时间")
	changeWords = words("change changed delta diff increment earn earned award add 变动 变更 变化 增减 发生 获得 本次")
	levelOfPts  = words("balance total remain remaining current available before after usable frozen used sum 余额 结余 剩余 可用 当前 累计 变动前 变动后 冻结 已用 总")

	statusWords  = words("status state stat 状态")
	paidAtWords  = words("支付时间 付款时间 缴费时间 支付日期 付款日期 成交时间 结清时间 结算时间")
	createdWords = words("创建时间 下单时间 注册时间 新增时间 录入时间 登记时间 提交时间 预约时间 报名时间 入会时间 创建日期 注册日期 入会日期")
	deletedWords = words("是否删除 删除标志 删除标记 已删除 删除时间 逻辑删除")

	groupWords   = words("group segment level grade tier tag label 分组 客群 群组 等级 级别 标签")
	notGroup     = words("id ids type count num at time date parent color sort order code 时间 类型 数量 编号 日期 颜色")
	levelWords   = words("level grade tier 等级 级别")
	numberWords  = words("no sn number 编号 单号 订单号 流水号")
	goodsWords   = words("goods product item course sku class 商品 课程 产品 项目 品名 班级")
	storeWords   = words("store shop branch campus 门店 店铺 校区 网点")
	channelWords = words("channel source 渠道 来源")
	countWords   = words("quantity qty 数量")
	remarkWords  = words("reason remark memo note description desc 备注 原因 说明 摘要 事由")
	kindWords    = words("type direction kind category op io 类型 方向 收支 类别 种类")
	customerIDs  = words("customerid custid memberid userid clientid vipid studentid buyerid contactid leadid patientid fanid uid 会员id 客户id 用户id 学员id 会员编号 客户编号 用户编号 学员编号 会员号 客户号")

	ledgerTables  = words("log record flow detail ledger history transaction change journal 流水 明细 记录 变动 日志 账单")
	orderTables   = words("order trade payment pay sale transaction purchase bill recharge consume consumption deal enrollment enrolment 订单 交易 支付 销售 消费 充值 缴费 报名 流水")
	undoneTables  = words("refund return cancel cancellation 退款 退货 取消")
	memberTables  = words("member customer client user contact lead student parent vip fan follower patient guest account 会员 客户 顾客 用户 学员 学生 家长 粉丝 线索 联系人 患者")
	strangerTable = words("store shop staff employee admin operator supplier vendor merchant company teacher coach salesperson salesman branch campus 门店 店铺 员工 管理员 供应商 商户 公司 教师 老师 教练 校区 导购")
	junkTables    = words("log sms verify verification captcha token session audit migration job queue cache config setting dict dictionary template 日志 短信 验证码 配置 字典 模板 操作记录")
	copyTables    = words("bak backup copy tmp temp old archive archived 备份 临时 归档 副本")
)

// name is a column's or a table's name, taken apart, with what is said of it.
type name struct {
	words   []string // in lower case, of Latin letters and digits, in their order
	text    string   // in lower case
	comment string
}

func newName(s, comment string) name {
	n := name{text: strings.ToLower(s), comment: strings.ToLower(comment)}
	var word []rune
	end := func() {
		if len(word) > 0 {
			n.words = append(n.words, strings.ToLower(string(word)))
		}
		word = word[:0]
	}
	runes := []rune(s)
	for i, r := range runes {
		switch {
		case r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r):
			end()
			continue
		case unicode.IsUpper(r) && i > 0 && unicode.IsLower(runes[i-1]):
			end()
		case unicode.IsDigit(r) != (i > 0 && unicode.IsDigit(runes[i-1])):
			if !strings.HasSuffix(string(word), "md") && !strings.HasSuffix(string(word), "sha") {
				end()
			}
		}
		word = append(word, r)
	}
	end()
	return n
}

// called reports whether the name itself has one of the words.
func (n name) called(l lexicon) bool {
	return slices.ContainsFunc(l, func(w string) bool {
		if w[0] >= 0x80 {
			return strings.Contains(n.text, w)
		}
		return slices.ContainsFunc(n.words, func(x string) bool { return x == w || x == w+"s" || x == w+"es" })
	})
}

// said reports whether the name, or the beginning of what is said of it, has one of the words. (Comments explain further on: "状态：0 未支付".)
func (n name) said(l lexicon) bool {
	if n.called(l) {
		return true
	}
	about := newName(n.subject(), "")
	return about.called(l)
}

// subject is what the comment is about: what stands before its first punctuation.
func (n name) subject() string {
	if i := strings.IndexFunc(n.comment, func(r rune) bool { return strings.ContainsRune(":：,，;；(（[【-—。.、", r) }); i >= 0 {
		return n.comment[:i]
	}
	return n.comment
}

// joined is the name without what separates its words: open_id and openId are openid.
func (n name) joined() string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, n.text)
}

// endsWith reports whether the thing that a table is named after is one of the words: member_orders are orders.
func (n name) endsWith(l lexicon) bool {
	text := n.text
	for _, suffix := range []string{"表", "信息", "资料", "档案", "列表", "主"} {
		text = strings.TrimSuffix(text, suffix)
	}
	last := ""
	for i := len(n.words) - 1; i >= 0; i-- {
		if last = n.words[i]; !slices.Contains([]string{"info", "tbl", "table", "main", "base", "data", "profile", "detail", "details", "master"}, last) {
			break
		}
	}
	return slices.ContainsFunc(l, func(w string) bool {
		if w[0] >= 0x80 {
			return strings.HasSuffix(text, w)
		}
		return last == w || last == w+"s" || last == w+"es"
	})
}
