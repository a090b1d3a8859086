#!/usr/bin/env python3
import json
import sys

def emit_event(event_type: str, data: dict):
    print(json.dumps({"event": event_type, **data}), flush=True)

def main():
    # Your worker logic here
    emit_event("connection", {"status": "connected"})
    emit_event("worker", {"status": "working"})
    # ... do work ...
    emit_event("finish", {"status": "completed"})

if __name__ == "__main__":
    main()
