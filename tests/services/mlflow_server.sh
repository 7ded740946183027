#!/usr/bin/env bash
# An MLflow server as a team runs it, for tests and to try: PostgreSQL beneath, artifacts served, a password asked for, loopback only.
#
#   mlflow_server.sh install       installs PostgreSQL where it is not; needs root and apt-get
#   mlflow_server.sh start FOLDER PORT   with MLFLOW_TRACKING_USERNAME and _PASSWORD for the first user; returns when it answers
#   mlflow_server.sh kill FOLDER   the server alone, at once, as a crash would; `start` takes up the same store
#   mlflow_server.sh stop FOLDER   server and database; their files stay
#
# Exit status 77: it cannot be had on this machine, and stderr says why.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

unavailable() { echo "$1" >&2; exit 77; }

binaries() { # the newest PostgreSQL's
  find /usr/lib/postgresql -path '*/bin/initdb' -printf '%h\n' 2>/dev/null | sort -V | tail -1
}

install() {
  [[ -z $(binaries) ]] || return 0
  [[ $(id -u) == 0 ]] || unavailable "no PostgreSQL, and only root can install it: apt-get install postgresql"
  command -v apt-get >/dev/null || unavailable "no PostgreSQL, and no apt-get to install it with"
  { apt-get install -y --no-install-recommends postgresql || { apt-get update && apt-get install -y --no-install-recommends postgresql; }; } \
    >&2 || unavailable "PostgreSQL cannot be installed: apt-get install postgresql failed"
}

as_database_user() { # PostgreSQL refuses to be run by root
  if [[ $(id -u) == 0 ]]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

start_database() { # its files and its socket lie in $1: a short path, since a socket's has at most 107 characters
  local bin
  bin=$(binaries)
  if [[ ! -d $1/data ]]; then
    [[ $(id -u) != 0 ]] || chown postgres "$1"
    as_database_user "$bin/initdb" --auth=trust --username=earshot --encoding=UTF8 --pgdata="$1/data" >"$2/initdb.log"
  fi
  as_database_user "$bin/pg_ctl" status --pgdata="$1/data" >/dev/null && return 0
  as_database_user "$bin/pg_ctl" start --wait --pgdata="$1/data" --log="$1/postgres.log" --options="-k $1 -c listen_addresses=''" >/dev/null
  for name in mlflow users; do
    as_database_user "$bin/psql" --host="$1" --username=earshot --dbname=postgres --quiet --command="CREATE DATABASE $name" 2>/dev/null || true
  done
}

start() {
  local folder=$1 port=$2 database python
  python=${PYTHON:-python}
  mkdir -p "$folder"
  [[ -n $(binaries) ]] || install
  [[ -f $folder/database ]] || mktemp -d /tmp/earshot-postgres.XXXXXX >"$folder/database"
  database=$(<"$folder/database")
  start_database "$database" "$folder"
  cat >"$folder/users.ini" <<EOF
[mlflow]
default_permission = MANAGE
database_uri = postgresql+psycopg2://earshot@/users?host=$database
admin_username = ${MLFLOW_TRACKING_USERNAME}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = true
auth_cache_ttl_seconds = 60
EOF
  # A session of its own: `kill` ends the workers with it. Without the jobs of generative models, for which seven processes would start.
  MLFLOW_AUTH_CONFIG_PATH=$folder/users.ini MLFLOW_AUTH_ADMIN_PASSWORD=${MLFLOW_TRACKING_PASSWORD} \
    MLFLOW_FLASK_SERVER_SECRET_KEY=$(head -c 24 /dev/urandom | base64) MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    setsid "$python" -m mlflow server --host 127.0.0.1 --port "$port" --workers 1 --app-name basic-auth \
    --backend-store-uri "postgresql+psycopg2://earshot@/mlflow?host=$database" --artifacts-destination "$folder/artifacts" \
    >>"$folder/server.log" 2>&1 </dev/null &
  echo $! >"$folder/server.pid"
  for _ in $(seq 3000); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return 0
    kill -0 "$(<"$folder/server.pid")" 2>/dev/null || break
    sleep 0.2
  done
  tail -20 "$folder/server.log" >&2
  exit 1
}

kill_server() {
  [[ ! -f $1/server.pid ]] || kill -KILL -- "-$(<"$1/server.pid")" 2>/dev/null || true
  rm -f "$1/server.pid"
}

stop() {
  local database
  kill_server "$1"
  [[ -f $1/database ]] || return 0
  database=$(<"$1/database")
  as_database_user "$(binaries)/pg_ctl" stop --mode=immediate --pgdata="$database/data" >/dev/null || true
}

case ${1:-} in
  install) install ;;
  start) start "$(realpath -m "$2")" "$3" ;;
  kill) kill_server "$2" ;;
  stop) stop "$2" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
