"""What the worker for diffusers makes of each case of a table, as JSON."""
import json
import sys

import gpu_service_worker as gpu
from order import input_for, read_order


def outcome(case):
    try:
        order = read_order(case["input"], case.get("files", []))
        return {"order": {**input_for(order, order.seed), "count": order.count}}
    except gpu.InvalidInput as error:
        return {"refused": str(error)}


with open(sys.argv[1], encoding="utf-8") as table:
    print(json.dumps([outcome(case) for case in json.load(table)]))
