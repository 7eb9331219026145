#!/usr/bin/env python3
"""Sets up in an AWS emulator what an operator sets up in AWS: who the service is, what it may become, what it opens.

    bootstrap.py ENDPOINT [--region REGION] [--once]        prints one JSON object

For moto, which enforces none of this, and for ministack with AUTH=true, which enforces all of it; the key `test` is
ministack's root, and moto takes any. The service's own user may do nothing but assume one role; the role trusts that
user alone, and only with the external id; and the role allows the EC2 actions that the service's tools need and no
others. Each call is narrowed further by a session policy.

Of what it prints, `groups` are for the configuration, and `opted_in` are not: their owner has given them the tag by
which the service finds them.

Meant for an emulator that has just been started or reset: names that are taken already end it, or, with `--once`, are left as they
are, and nothing is printed.
"""

import argparse
import json
import os
import secrets
import sys
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

USER = "whitelistmcp-core"
ROLE = "whitelistmcp-target"
ASSUME = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
# What the role allows at most: the EC2 actions that the service's tools need.
ROLE_POLICY = Path(__file__).resolve().parent / "role_policy.json"
# Each group with the ordinary rule it had before the service came: the office network, on the database's port.
GROUPS = {
    "staging-db": ("Staging database", 5432, "10.20.0.0/16"),
    "payroll-db": ("Payroll database", 3306, "10.30.0.0/16"),
}
# The same for those that no configuration names.
OPTED_IN = {
    "reports-db": ("Reports database", 5432, "10.40.0.0/16"),
}
OPT_IN = {"Key": "whitelistmcp:managed", "Value": "true"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Set up user, role and security groups in an AWS emulator.")
    parser.add_argument("endpoint", metavar="ENDPOINT", help="such as http://127.0.0.1:4566")
    parser.add_argument("--region", default="eu-central-1")
    parser.add_argument("--once", action="store_true", help="do nothing where it has been set up already")
    asked = parser.parse_args()
    forget_own_aws()
    try:
        if asked.once and is_set_up(asked.endpoint, asked.region):
            return 0
        print(json.dumps(bootstrap(asked.endpoint, asked.region)))
    except (BotoCoreError, ClientError) as error:
        print(f"bootstrap.py: {error}", file=sys.stderr)
        return 1
    return 0


def forget_own_aws() -> None:
    """The person's own AWS profile, keys and endpoints have no say here, and must not be reached by mistake."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


def client(service: str, endpoint: str, region: str):
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(proxies={}, retries={"total_max_attempts": 2}),
    )


def is_set_up(endpoint: str, region: str) -> bool:
    """Whether the last of what is made is there."""
    last = {"Name": "group-name", "Values": [list(OPTED_IN)[-1]]}
    return bool(client("ec2", endpoint, region).describe_security_groups(Filters=[last])["SecurityGroups"])


def bootstrap(endpoint: str, region: str) -> dict:
    account = client("sts", endpoint, region).get_caller_identity()["Account"]
    iam, ec2 = client("iam", endpoint, region), client("ec2", endpoint, region)
    external_id = f"demo-{secrets.token_hex(8)}"
    user_arn = iam.create_user(UserName=USER)["User"]["Arn"]
    role_arn = iam.create_role(
        RoleName=ROLE,
        AssumeRolePolicyDocument=json.dumps(trust_policy(user_arn, external_id)),
        Description="What whitelistmcp may do in this account at most; each call gets a narrower session.",
    )["Role"]["Arn"]
    iam.put_role_policy(RoleName=ROLE, PolicyName="security-groups", PolicyDocument=ROLE_POLICY.read_text())
    iam.put_user_policy(UserName=USER, PolicyName="assume-target", PolicyDocument=json.dumps(user_policy(role_arn)))
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    return {
        "account": account,
        "region": region,
        "role_arn": role_arn,
        "external_id": external_id,
        "access_key_id": key["AccessKeyId"],
        "secret_access_key": key["SecretAccessKey"],
        "groups": {name: create_group(ec2, vpc, name, *about) for name, about in GROUPS.items()},
        "opted_in": {name: create_group(ec2, vpc, name, *about, tags=[OPT_IN]) for name, about in OPTED_IN.items()},
    }


def create_group(ec2, vpc: str, name: str, description: str, port: int, cidr: str, tags: list[dict] | None = None) -> str:
    group = ec2.create_security_group(GroupName=name, Description=description, VpcId=vpc)["GroupId"]
    if tags:
        ec2.create_tags(Resources=[group], Tags=tags)
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {
                "IpProtocol": "tcp",
                "FromPort": port,
                "ToPort": port,
                "IpRanges": [{"CidrIp": cidr, "Description": "office network"}],
            }
        ],
    )
    return group


def trust_policy(user_arn: str, external_id: str) -> dict:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": user_arn},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
    }
    # Tags and source identity are set by the same call, but the external id belongs to its AssumeRole part alone.
    also = {"Effect": "Allow", "Principal": {"AWS": user_arn}, "Action": ASSUME[1:]}
    return {"Version": "2012-10-17", "Statement": [statement, also]}


def user_policy(role_arn: str) -> dict:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ASSUME, "Resource": role_arn}]}


if __name__ == "__main__":
    sys.exit(main())
