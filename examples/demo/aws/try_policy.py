#!/usr/bin/env python3
"""What could somebody do with the credentials of one call? Assumes the role with a session policy and tries.

    try_policy.py ENDPOINT POLICY_FILE GROUP OTHER_GROUP < BOOTSTRAP_JSON

Reads what `bootstrap.py` printed. Prints one JSON object: for each attempt, `allowed` or AWS's own error code. Says
something only of an emulator that enforces session policies: ministack with AUTH=true.
"""

import json
import sys
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


def main() -> int:
    endpoint, policy, group, other = sys.argv[1], Path(sys.argv[2]).read_text().strip(), sys.argv[3], sys.argv[4]
    aws = json.load(sys.stdin)

    def client(service: str, key: str, secret: str, token: str | None = None):
        return boto3.client(
            service,
            endpoint_url=endpoint,
            region_name=aws["region"],
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=Config(proxies={}, retries={"total_max_attempts": 1}),
        )

    sts = client("sts", aws["access_key_id"], aws["secret_access_key"])
    lent = sts.assume_role(
        RoleArn=aws["role_arn"], RoleSessionName="try-policy", ExternalId=aws["external_id"], DurationSeconds=900, Policy=policy
    )["Credentials"]
    ec2 = client("ec2", lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"])
    rule = [{"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "192.0.2.99/32"}]}]
    attempts = {
        "look": lambda: ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}]),
        "open the group": lambda: ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rule),
        "open another group": lambda: ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=rule),
        "close the group": lambda: ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rule),
        "make a network": lambda: ec2.create_vpc(CidrBlock="10.99.0.0/16"),
    }
    print(json.dumps({name: attempt(act) for name, act in attempts.items()}))
    return 0


def attempt(act) -> str:
    try:
        act()
        return "allowed"
    except ClientError as error:
        return error.response["Error"]["Code"]


if __name__ == "__main__":
    sys.exit(main())
