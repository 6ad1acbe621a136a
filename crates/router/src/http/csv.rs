//! The status as HAProxy's CSV, for scripts that read that: same header, same order, empty where
//! a column means nothing here.

use std::fmt::Display;

use super::status::{Condition, MemberPort, MemberStatus, PortStatus, Status};
use crate::table::Port;

/// HAProxy's columns; they are only ever appended to.
const COLUMNS: &str = "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,\
eresp,wretr,wredis,status,weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,\
throttle,lbtot,tracked,type,rate,rate_lim,rate_max,check_status,check_code,check_duration,\
hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,req_rate_max,req_tot,\
cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,ctime,rtime,\
ttime,agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,\
check_health,agent_rise,agent_fall,agent_health,addr,cookie,mode,algo,conn_rate,conn_rate_max,\
conn_tot,intercepted,dcon,dses,wrew,connect,reuse,cache_lookups,cache_hits,srv_icur,src_ilim,\
qtime_max,ctime_max,rtime_max,ttime_max,eint,idle_conn_cur,safe_conn_cur,used_conn_cur,\
need_conn_est,uweight,agg_server_status,agg_server_check_status,agg_check_status,srid,sess_other,\
h1sess,h2sess,h3sess,req_other,h1req,h2req,h3req,proto,-,";

/// The whole table.
pub(crate) fn text(status: &Status) -> String {
    let mut text = format!("# {COLUMNS}\n");
    for (iid, port) in Port::ALL.into_iter().enumerate() {
        text.push_str(&frontend(status, port, iid + 2).line());
        for (sid, member) in status.members.iter().enumerate() {
            text.push_str(&server(member, port, iid + 2, sid + 1).line());
        }
        text.push_str(&backend(status, port, iid + 2).line());
    }
    text
}

/// One line; columns that aren't set stay empty.
struct Row(Vec<(&'static str, String)>);

impl Row {
    fn new(port: Port, name: &str, kind: u8, iid: usize, sid: usize) -> Self {
        let mut row = Self(Vec::with_capacity(32));
        row.set("pxname", port).set("svname", name).set("type", kind).set("mode", "tcp");
        row.set("pid", 1).set("iid", iid).set("sid", sid);
        row
    }

    fn set(&mut self, column: &'static str, value: impl Display) -> &mut Self {
        self.0.push((column, value.to_string()));
        self
    }

    fn sessions(&mut self, of: &MemberPort) -> &mut Self {
        self.set("scur", of.sessions)
            .set("smax", of.sessions_max)
            .set("stot", of.sessions_total)
            .set("bin", of.bytes_in)
            .set("bout", of.bytes_out)
    }

    fn errors(&mut self, of: &MemberPort) -> &mut Self {
        let last = of.last_session_seconds.map_or_else(|| "-1".to_owned(), |s| s.to_string());
        self.set("econ", of.connect_errors_total)
            .set("eresp", 0)
            .set("wretr", of.connect_errors_total)
            .set("wredis", of.sessions_moved_total)
            .set("cli_abrt", of.client_aborts_total)
            .set("srv_abrt", of.server_aborts_total)
            .set("lbtot", of.sessions_total)
            .set("connect", of.sessions_total)
            .set("lastsess", last)
            .set("ctime", of.connect_ms.round())
            .set("weight", 1)
            .set("bck", 0)
    }

    fn line(&self) -> String {
        let value = |column: &str| {
            let found = self.0.iter().find(|(name, _)| *name == column);
            found.map_or("", |(_, value)| value.as_str())
        };
        let columns = COLUMNS.split(',').filter(|column| !column.is_empty());
        let cells: Vec<&str> =
            columns.map(|column| if column == "-" { "-" } else { value(column) }).collect();
        format!("{},\n", cells.join(","))
    }
}

fn queue(row: &mut Row, of: &PortStatus) {
    row.set("qcur", of.held).set("qmax", of.held_max);
}

fn frontend(status: &Status, port: Port, iid: usize) -> Row {
    let of = status.port(port);
    let mut row = Row::new(port, "FRONTEND", 0, iid, 0);
    row.sessions(&of.total)
        .set("slim", status.router.max_connections)
        .set("status", if status.router.phase == "running" { "OPEN" } else { "STOP" })
        .set("dreq", of.refused.get("connection_limit").copied().unwrap_or(0))
        .set("ereq", of.refused.get("protocol").copied().unwrap_or(0))
        .set("rate", of.rate)
        .set("rate_max", of.rate_max)
        .set("conn_rate", of.rate)
        .set("conn_rate_max", of.rate_max)
        .set("conn_tot", of.connections_total);
    if let Some(address) = of.addresses.first() {
        row.set("addr", address);
    }
    row
}

fn server(member: &MemberStatus, port: Port, iid: usize, sid: usize) -> Row {
    let of = member.port(port);
    let mut row = Row::new(port, member.name.as_str(), 2, iid, sid);
    row.sessions(of)
        .errors(of)
        .set("qcur", 0)
        .set("qmax", 0)
        .set("status", server_status(member, of))
        .set("act", u8::from(of.routed))
        .set("addr", &member.address);
    row
}

/// A healthy member that this port has no use for is not DOWN: nobody should be woken for it.
fn server_status(member: &MemberStatus, of: &MemberPort) -> &'static str {
    match member.condition {
        _ if of.routed => "UP",
        Condition::Primary | Condition::Replica | Condition::Lagging | Condition::Detached => {
            "NOLB"
        }
        Condition::Promoting | Condition::Other => "DOWN",
    }
}

fn backend(status: &Status, port: Port, iid: usize) -> Row {
    let of = status.port(port);
    let mut row = Row::new(port, "BACKEND", 1, iid, 0);
    let active = status.members.iter().filter(|member| member.port(port).routed).count();
    row.sessions(&of.total)
        .errors(&of.total)
        .set("slim", status.router.max_connections)
        .set("status", if of.total.routed { "UP" } else { "DOWN" })
        .set("act", active)
        .set("algo", "roundrobin");
    if port == Port::Write {
        row.set("lastchg", status.primary_for_seconds.trunc());
    }
    queue(&mut row, of);
    row
}
